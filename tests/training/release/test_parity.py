"""Losses, gradients, samples and updates agree with the released code's figures, and planted errors are detected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import PARITY_FILES
from training import losses
from training.batch import Batch
from training.learner.compute import Choice, TorchCompute
from training.learner.draws import Draws
from training.learner.learner import Learner
from training.losses import Info
from training.release import parity
from training.release.parity import Check
from training.release.parity_file import ParityFile, ParityFileError

COMPUTE = TorchCompute(torch.device("cpu"), "fp32")


@pytest.fixture(params=sorted(PARITY_FILES))
def file(request: pytest.FixtureRequest) -> ParityFile:
    return ParityFile(PARITY_FILES[request.param])


def failures(checks: Iterator[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("compute", ["native", "torch"])
def test_every_quantity_agrees(file: ParityFile, compute: Choice) -> None:
    checks = list(parity.check_all(file, compute))
    assert failures(iter(checks)) == []
    names = {check.name for check in checks}
    for k in file.setting("k_values"):
        assert {f"q/k{k}/grad", f"critic/k{k}/leaked_grad"} <= names
    assert {"fm/loss", "sc/grad", "sample/n8_m2/index", "update4/change of modules_target_critic"} <= names


def test_the_two_files_cover_different_settings() -> None:
    small, least = (ParityFile(path) for path in PARITY_FILES.values())
    for name in ("obs_dim", "hidden", "layers", "q_agg", "k_values", "t_epsilon", "tau", "q_loss_coef"):
        assert small.setting(name) != least.setting(name), name


class AverageWithoutLag(Learner):
    def update(self, batch: Batch, draws: Draws) -> Info:
        before = [p.clone() for net in (self.target_actor, self.target_critic) for p in net.parameters()]
        info = super().update(batch, draws)
        with torch.no_grad():
            for net in (self.target_actor, self.target_critic):
                for parameter in net.parameters():
                    parameter.copy_(before.pop(0))
        self._move_average(self.target_actor, self.policy.actor, self.config.tau)
        self._move_average(self.target_critic, self.policy.critic, self.config.tau)
        return info


class CriticAtTheWrongSteps(Learner):
    def update(self, batch: Batch, draws: Draws) -> Info:
        wrong = {1: 2, 2: 1, 4: 2, 8: 4}
        original = losses.critic_loss

        def at_another_k(critic, target, batch, action, k, *rest):  # type: ignore[no-untyped-def]
            return original(critic, target, batch, action, wrong[k], *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "critic_loss", at_another_k)
            return super().update(batch, draws)


def learner(file: ParityFile, cls: type[Learner] = Learner, **changes: object) -> Learner:
    return cls(file.spec, replace(file.config("reference"), **changes))  # type: ignore[arg-type]


def with_decay(file: ParityFile) -> Learner:
    ours = learner(file, compute="torch")
    groups = ours.actor_optimizer.param_groups[0]
    ours.actor_optimizer = torch.optim.AdamW(groups["params"], lr=groups["lr"], weight_decay=1e-2)
    ours.critic_optimizer = ours.actor_optimizer
    return ours


def with_beta2(file: ParityFile) -> Learner:
    ours = learner(file)
    ours.actor_optimizer.param_groups[0]["betas"] = (0.9, 0.99)
    return ours


def one_percent(name: str) -> Callable[[ParityFile], Learner]:
    return lambda file: learner(file, **{name: 1.01 * getattr(file.config("reference"), name)})


PLANTED: dict[str, Callable[[ParityFile], Learner]] = {
    "averages without their lag": lambda file: learner(file, AverageWithoutLag),
    "everything without the lag": lambda file: learner(file, lagged_targets=False),
    "no leak": lambda file: learner(file, leak_td_gradient=False),
    "two optimisers": lambda file: learner(file, shared_optimizer=False),
    "decay of 1e-2": with_decay,
    "beta2 of .99": with_beta2,
    "flow_coef + 1 %": one_percent("flow_coef"),
    "consistency_coef + 1 %": one_percent("consistency_coef"),
    "q_loss_coef + 1 %": one_percent("q_loss_coef"),
    "tau + 1 %": one_percent("tau"),
    "learning_rate + 1 %": one_percent("learning_rate"),
    "discount - 1 %": lambda file: learner(file, discount=0.99 * file.setting("discount")),
    "critic at the wrong k": lambda file: learner(file, CriticAtTheWrongSteps),
}


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_detected(file: ParityFile, error: str) -> None:
    assert failures(parity.check_updates(file, PLANTED[error](file))) != []


def test_a_wrong_remainder_rule_is_detected(file: ParityFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not divide evenly go to d = 0; here they go to the finest level."""

    def finest_first(batch_size: int, denoise_timesteps: int, device: torch.device) -> Tensor:
        levels = range(denoise_timesteps.bit_length() - 2, -1, -1)
        share, rest = divmod(batch_size, len(levels))
        rows = [float(levels[0])] * rest + [float(level) for level in levels for _ in range(share)]
        return torch.tensor(rows, device=device)[:, None]

    monkeypatch.setattr(losses, "consistency_levels", finest_first)
    assert "sc/log2_steps" in failures(parity.check_self_consistency(file, COMPUTE))
    assert failures(parity.check_updates(file, learner(file))) != []


def test_a_wrong_flow_target_is_detected(file: ParityFile, monkeypatch: pytest.MonkeyPatch) -> None:
    original = losses.flow_matching_rows

    def off_by_little(action: Tensor, noise: Tensor, *rest: object) -> losses.FlowRows:
        return original(action, noise, *rest)._replace(target=action - 1.0001 * noise)  # type: ignore[arg-type]

    monkeypatch.setattr(losses, "flow_matching_rows", off_by_little)
    assert failures(parity.check_flow_matching(file, COMPUTE)) != []


@pytest.mark.parametrize("name", ["fm/noise", "update2/params/modules_actor/mlp/Dense_0/bias", "sample/n8_m1/q"])
def test_a_missing_tensor_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "cut.safetensors"
    whole = ParityFile(PARITY_FILES["small"])
    tensors = {key: tensor for key, tensor in load_file(PARITY_FILES["small"]).items() if key != name}
    save_file(tensors, path, metadata={key: json.dumps(value) for key, value in whole.settings.items()})
    with pytest.raises(ParityFileError, match=r"missing|lacks"):
        list(parity.check_all(ParityFile(path)))


def test_another_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(ParityFileError, match=r"other\.safetensors"):
        ParityFile(path)


def test_failures_are_counted_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = parity.print_checks(iter([Check("a", 0.0, 1e-5)]), print)
    bad = parity.print_checks(iter([Check("a", 0.0, 1e-5), Check("b", 1.0, 1e-5)]), print)
    assert (good, bad) == (0, 1)
    assert "FAIL   1.00e+00  (limit 1e-05)  b" in capsys.readouterr().out
