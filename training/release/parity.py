"""`sorl-parity`: compares losses, gradients, samples and whole updates with figures of the released SORL code.

A parity file (format: docs/algorithm.md) holds a small network's parameters in the released code's tree, batches, the
noise of each loss, and the results. Every quantity is recomputed here by the functions that training uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from kernels.backend import BackendUnavailable
from kernels.commands import command
from kernels.reference import aggregate
from policy import VelocityField
from training import losses
from training.arguments import parse_arguments
from training.learner import Choice, Compute, Draws, Learner, choose_compute
from training.losses import Info
from training.release import released
from training.release.parity_file import ParityFile, ParityFileError

LOSS, GRADIENT, SAMPLE = 1e-5, 1e-4, 1e-5
"""Limits on relative errors."""
REPORTED_LOSS = 5e-5
PARAMETER_CHANGE = 2e-3
"""Limit on |change - expected change| / |expected change| of a network's parameters. A faithful implementation had
3e-4, one whose average lacks the lag 1.8e-2. A comparison of values instead of changes would let both pass."""

INFO_NAMES = {
    "critic_loss": "critic_loss",
    "actor_loss": "actor_loss",
    "bc_flow_loss": "flow_loss",
    "consistency_loss": "consistency_loss",
    "q_loss": "q_loss",
}
"""Name of a reported loss in the released code -> its name in `Info`."""


@dataclass(frozen=True)
class Check:
    """One compared quantity."""

    name: str
    error: float
    """|found - expected| / |expected|; the largest one if the quantity has several tensors."""
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, in float64; |found| if `expected` is all zero."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / (expected.norm() if expected.any() else 1.0))


def gradient_error(module: nn.Module, expected: dict[str, Tensor]) -> float:
    """The largest relative error among a module's gradients, tensor by tensor. A missing gradient counts as zero."""
    return max(
        relative_error(torch.zeros_like(p) if p.grad is None else p.grad, expected[name])
        for name, p in module.named_parameters()
    )


def check_all(file: ParityFile, choice: Choice = "auto") -> Iterator[Check]:
    """Check every quantity of the file, in the order of docs/algorithm.md, as `choice` computes it.

    Raises:
        ParityFileError: something is missing from the file.
        BackendUnavailable: see `choose_compute`.
    """
    compute = choose_compute(choice, torch.device("cpu"), "fp32")
    yield from check_flow_matching(file, compute)
    yield from check_self_consistency(file, compute)
    for k in file.setting("k_values"):
        yield from check_q_loss(file, compute, k)
    for k in file.setting("k_values"):
        yield from check_critic_loss(file, compute, k)
    yield from check_samples(file, compute)
    yield from check_updates(file, Learner(file.spec, replace(file.config("reference"), compute=choice)))


def check_flow_matching(file: ParityFile, compute: Compute) -> Iterator[Check]:
    """Loss 1 and its gradient."""
    actor, batch, spec = file.actor(), file.batch(), file.spec
    rows = losses.flow_matching_rows(
        batch.actions, file["fm/noise"], file.column("fm/t"), spec.denoise_timesteps, file.setting("t_epsilon")
    )
    yield from _check_velocity_loss(file, compute, "fm", actor, rows)


def check_self_consistency(file: ParityFile, compute: Compute) -> Iterator[Check]:
    """Loss 2 and its gradient, and the level d of each row."""
    actor, target, batch = file.actor(), compute.actor(file.actor(released.TARGET_ACTOR)), file.batch()
    levels = losses.consistency_levels(len(batch.actions), file.spec.denoise_timesteps, torch.device("cpu"))
    yield Check("sc/log2_steps", relative_error(levels[:, 0], file["sc/log2_steps"]), 0.0)
    share = target.observation_share(batch.observations)
    noise, t, epsilon = file["sc/noise"], file.column("sc/t"), file.setting("t_epsilon")
    rows = losses.self_consistency_rows(target, share, batch.actions, noise, t, levels, epsilon)
    yield from _check_velocity_loss(file, compute, "sc", actor, rows)


def _check_velocity_loss(
    file: ParityFile, compute: Compute, name: str, actor: VelocityField, rows: losses.FlowRows
) -> Iterator[Check]:
    velocity = compute.actor(actor)
    (loss,) = losses.velocity_loss(velocity, velocity.observation_share(file.batch().observations), rows)
    torch.autograd.backward(loss)
    yield Check(f"{name}/loss", relative_error(loss, file[f"{name}/loss"][0]), LOSS)
    yield Check(f"{name}/grad", gradient_error(actor, file.state(released.ACTOR, f"{name}/grad")), GRADIENT)


def check_q_loss(file: ParityFile, compute: Compute, k: int) -> Iterator[Check]:
    """Loss 3 and its gradient, the k-step actions and their Q."""
    network, batch, spec = file.actor(), file.batch(), file.spec
    actor, critic = compute.actor(network), compute.critic(file.critic().requires_grad_(False))
    share, noise = actor.observation_share(batch.observations), file[f"q/k{k}/noise"]
    actions = losses.sample(actor, share, noise, k, spec.denoise_timesteps)
    yield Check(f"q/k{k}/actions", relative_error(actions, file[f"q/k{k}/actions"]), SAMPLE)
    q = critic(batch.observations, actions, torch.full_like(noise[:, :1], k)).mean(0)
    yield Check(f"q/k{k}/q", relative_error(q, file[f"q/k{k}/q"]), SAMPLE)
    loss, _ = losses.q_loss(
        actor, critic, batch.observations, share, noise, k, spec.denoise_timesteps, file.setting("normalize_q_loss")
    )
    torch.autograd.backward(loss)
    yield Check(f"q/k{k}/loss", relative_error(loss, file[f"q/k{k}/loss"][0]), LOSS)
    yield Check(f"q/k{k}/grad", gradient_error(network, file.state(released.ACTOR, f"q/k{k}/grad")), GRADIENT)


def check_critic_loss(file: ParityFile, compute: Compute, k: int) -> Iterator[Check]:
    """Loss 4 and its gradient, and the gradient that leaks into the actor if the next action is not detached."""
    actor_network, critic_network, batch = file.actor(), file.critic(), file.batch()
    actor, critic = compute.actor(actor_network), compute.critic(critic_network)
    target = compute.critic(file.critic(released.TARGET_CRITIC).requires_grad_(False))
    share = actor.observation_share(batch.next_observations)
    next_action = losses.sample(actor, share, file[f"critic/k{k}/noise"], k, file.spec.denoise_timesteps)
    discount, q_agg = file.setting("discount"), file.spec.q_agg
    loss, _ = losses.critic_loss(critic, target, batch, next_action, k, discount, q_agg)
    torch.autograd.backward(loss)
    name = f"critic/k{k}"
    leaked = file.state(released.ACTOR, f"{name}/leaked_grad")
    yield Check(f"{name}/loss", relative_error(loss, file[f"{name}/loss"][0]), LOSS)
    yield Check(f"{name}/grad", gradient_error(critic_network, file.state(released.CRITIC, f"{name}/grad")), GRADIENT)
    yield Check(f"{name}/leaked_grad", gradient_error(actor_network, leaked), GRADIENT)


@torch.no_grad()
def check_samples(file: ParityFile, compute: Compute) -> Iterator[Check]:
    """Best of N candidates of M steps, for every (N, M) of the file. As there, the critic sees M itself."""
    actor, critic, spec = compute.actor(file.actor()), compute.critic(file.critic()), file.spec
    observations = file["sample/observations"]
    cells = sorted({(int(m[1]), int(m[2])) for n in file.tensors if (m := re.match(r"sample/n(\d+)_m(\d+)/", n))})
    for num_candidates, num_steps in cells:
        name = f"sample/n{num_candidates}_m{num_steps}"
        noise = file[f"{name}/noise"]
        rows = observations.repeat_interleave(num_candidates, 0)
        share = actor.observation_share(rows)
        actions = losses.sample(actor, share, noise.flatten(0, 1), num_steps, spec.denoise_timesteps)
        members = critic(rows, actions, torch.full_like(actions[:, :1], num_steps))
        shape = (len(observations), num_candidates)
        chosen = aggregate(members, spec.q_agg).view(shape).argmax(1)
        expected = aggregate(file[f"{name}/q"].transpose(0, 1), spec.q_agg).argmax(1)
        action = actions.view(*shape, -1)[torch.arange(len(chosen)), chosen]
        q = members.view(-1, *shape).transpose(0, 1)
        candidates = file[f"{name}/candidates"]
        yield Check(f"{name}/candidates", relative_error(actions.view_as(candidates), candidates), SAMPLE)
        yield Check(f"{name}/q", relative_error(q, file[f"{name}/q"]), SAMPLE)
        yield Check(f"{name}/index", float((chosen != expected).sum()), 0.0)
        yield Check(f"{name}/action", relative_error(action, file[f"{name}/action"]), SAMPLE)


def check_updates(file: ParityFile, learner: Learner) -> Iterator[Check]:
    """Consecutive whole updates under the `reference` preset: reported losses, and the change of every network."""
    networks: dict[str, nn.Module] = {
        released.ACTOR: learner.policy.actor,
        released.CRITIC: learner.policy.critic,
        released.TARGET_ACTOR: learner.target_actor,
        released.TARGET_CRITIC: learner.target_critic,
    }
    start = {module: file.state(module) for module in networks}
    for module, network in networks.items():
        network.load_state_dict(start[module])
    number = 0
    while f"update{number}/q_k" in file.tensors:
        name = f"update{number}"
        info = learner.update(file.batch(f"{name}/batch"), _draws(file, name))
        for theirs, ours in INFO_NAMES.items():
            error = relative_error(info[ours], file[f"{name}/info/{theirs}"][0])
            yield Check(f"{name}/{theirs}", error, REPORTED_LOSS)
        yield from _check_shares(file, name, info)
        for module, network in networks.items():
            expected, begin = file.state(module, f"{name}/params"), start[module]
            found = network.state_dict()
            error = max(relative_error(found[n] - begin[n], expected[n] - begin[n]) for n in begin)
            yield Check(f"{name}/change of {module}", error, PARAMETER_CHANGE)
        number += 1


def _check_shares(file: ParityFile, name: str, info: Info) -> Iterator[Check]:
    """Each loss's share of the actor's loss: in the sum, a coefficient off by 1 % hides where its loss is small."""
    coefficients = {"bc_flow_loss": "bc_flow_loss_coef", "consistency_loss": "alpha", "q_loss": "q_loss_coef"}
    weights = {theirs: file.setting(setting) for theirs, setting in coefficients.items()}
    expected = {theirs: weight * file.scalar(f"{name}/info/{theirs}") for theirs, weight in weights.items()}
    ours = {theirs: weight * float(info[INFO_NAMES[theirs]]) for theirs, weight in weights.items()}
    rounding = 4 * torch.finfo(torch.float32).eps * sum(map(abs, expected.values()))
    for theirs, share in expected.items():
        found = float(info["actor_loss"]) - sum(value for other, value in ours.items() if other != theirs)
        error, size = abs(found - share), max(abs(share), 1e-12)
        yield Check(f"{name}/share of {theirs}", error / size, max(REPORTED_LOSS, rounding / size))


def _draws(file: ParityFile, name: str) -> Draws:
    return Draws(
        critic_k=int(file.scalar(f"{name}/critic_k")),
        critic_noise=file[f"{name}/critic_noise"],
        flow_t=file.column(f"{name}/fm_t"),
        flow_noise=file[f"{name}/fm_noise"],
        consistency_t=file.column(f"{name}/sc_t"),
        consistency_noise=file[f"{name}/sc_noise"],
        q_k=int(file.scalar(f"{name}/q_k")),
        q_noise=file[f"{name}/q_noise"],
    )


@dataclass(frozen=True)
class ParityConfig:
    """Compare losses, gradients, samples and whole updates with the released code's. Exits with 1 if any differs."""

    file: tyro.conf.Positional[Path]
    """A parity file, e.g. tests/fixtures/sorl_reference_small.safetensors. Format: docs/algorithm.md."""
    compute: Choice = "auto"
    """The implementation to test: torch's operators, or the native networks that training uses on CPUs."""


@command("sorl-parity", ParityFileError, BackendUnavailable)
def main() -> int:
    """`sorl-parity`. The exit status: 0 if every quantity agrees, otherwise 1."""
    config = parse_arguments(ParityConfig)
    failed = print_checks(check_all(ParityFile(config.file), config.compute), print)
    return 1 if failed else 0


def print_checks(checks: Iterator[Check], write: Callable[[str], None]) -> int:
    """Write one line per quantity, then a summary. Returns the number of failures."""
    total = failed = 0
    for check in checks:
        total, failed = total + 1, failed + (not check.passed)
        write(f"{'pass' if check.passed else 'FAIL'}  {check.error:9.2e}  (limit {check.limit:.0e})  {check.name}")
    write(f"{total - failed} of {total} quantities agree")
    return failed
