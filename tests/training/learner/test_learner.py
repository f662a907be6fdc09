"""The order of an update's steps, its averages, and its randomness."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from tests.training.conftest import TASK
from training.config import TrainConfig
from training.data.dataset import Dataset, load_dataset
from training.learner.compute import Choice
from training.learner.draws import Draws, RandomStream
from training.learner.learner import Learner
from training.trainer import make_spec


@pytest.fixture
def learner(dataset: Dataset) -> Learner:
    torch.manual_seed(0)
    config = TrainConfig(hidden=(16, 16), batch_size=30, tau=0.1).resolved()
    return Learner(make_spec(config, dataset), config)


def draw(learner: Learner, seed: int = 0) -> Draws:
    return learner.draw(RandomStream("cpu", seed))


def test_draws_have_the_papers_distributions(learner: Learner) -> None:
    stream = RandomStream("cpu", 0)
    draws = [learner.draw(stream) for _ in range(400)]
    for name in ("critic_k", "q_k"):
        counts = torch.bincount(torch.tensor([getattr(d, name) for d in draws]))
        assert set(torch.nonzero(counts).ravel().tolist()) == {1, 2, 4, 8}
        assert counts[[1, 2, 4, 8]].min() > 60  # expected 100, standard deviation 8.7
    flow_t = torch.cat([d.flow_t for d in draws])
    assert torch.equal(flow_t.unique(), torch.arange(8) / 8)
    for level in (2, 1, 0):
        t = torch.cat([d.consistency_t[learner.levels == level] for d in draws])
        assert torch.equal(t.unique(), torch.arange(2**level) / 2**level)
    assert [int((learner.levels == level).sum()) for level in (2, 1, 0)] == [10, 10, 10]


def test_target_networks_move_by_tau_towards_the_updated_ones(learner: Learner, dataset: Dataset) -> None:
    before = copy.deepcopy(learner.target_critic), copy.deepcopy(learner.target_actor)
    learner.update(dataset.train.sample(30, torch.Generator().manual_seed(0)), draw(learner))
    online = learner.policy.critic, learner.policy.actor
    for old, new, target in zip(before, online, (learner.target_critic, learner.target_actor), strict=True):
        for a, b, c in zip(old.parameters(), new.parameters(), target.parameters(), strict=True):
            torch.testing.assert_close(c, 0.9 * a + 0.1 * b)


def test_the_q_loss_does_not_change_the_critic(learner: Learner, dataset: Dataset) -> None:
    """The critic after a whole update equals the critic after its own step."""
    batch, draws = dataset.train.sample(30, torch.Generator().manual_seed(0)), draw(learner)
    apart = Learner(learner.policy.spec, learner.config)
    apart.load_state_dict(copy.deepcopy(learner.state_dict()))
    apart._critic_step(batch, draws)
    learner.update(batch, draws)
    for a, b in zip(apart.policy.critic.parameters(), learner.policy.critic.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("compute", ["torch", "native"])
@pytest.mark.parametrize("preset", ["paper", "reference"])
@pytest.mark.parametrize(
    ("weight", "columns", "tolerance"),
    [("q_loss_coef", {"q_mean", "q_loss"}, 0.0), ("consistency_coef", {"consistency_loss"}, 1e-7)],
    ids=["q", "consistency"],
)
def test_a_loss_without_weight_is_left_out_and_nothing_else_changes(
    dataset: Dataset,
    compute: Choice,
    preset: Literal["paper", "reference"],
    weight: str,
    columns: set[str],
    tolerance: float,
) -> None:
    """A weight of 1e-30 adds to gradients what float32 rounds away.

    The rows of self-consistency pass with those of the flow, so sums over rows round otherwise. A weight changes by
    1e-4 an update.
    """
    config = TrainConfig(hidden=(16, 16), batch_size=30, compute=compute, preset=preset, threads=1)
    none: dict[str, Any] = {weight: 0.0}
    hardly_any: dict[str, Any] = {weight: 1e-30}
    torch.manual_seed(0)
    config = replace(config, **none)
    without = Learner(make_spec(config.resolved(), dataset), config.resolved())
    tiny = Learner(without.policy.spec, replace(config, **hardly_any).resolved())
    tiny.load_state_dict(copy.deepcopy(without.state_dict()))
    for seed in range(3):
        batch = dataset.train.sample(30, torch.Generator().manual_seed(seed))
        info = without.update(batch, draw(without, seed))
        assert tiny.update(batch, draw(tiny, seed)).keys() - info.keys() == columns
    for name, tensor in without.policy.state_dict().items():
        assert torch.allclose(tensor, tiny.policy.state_dict()[name], rtol=0, atol=tolerance), name


def test_the_td_error_does_not_train_the_actor(learner: Learner, dataset: Dataset) -> None:
    before = copy.deepcopy(learner.policy.actor.state_dict())
    learner._critic_step(dataset.train.sample(30, torch.Generator().manual_seed(0)), draw(learner))
    for name, tensor in learner.policy.actor.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in learner.policy.actor.parameters())


@pytest.mark.parametrize("compute", ["torch", "native"])
@pytest.mark.parametrize("lagged", [False, True])
def test_with_a_frozen_actor_critics_learn_as_beside_one_that_takes_no_step(
    dataset: Dataset, compute: Choice, lagged: bool
) -> None:
    """To the bit, over several updates; the actor and its target average stay."""
    config = TrainConfig(hidden=(16, 16), batch_size=30, tau=0.1, compute=compute, threads=1, lagged_targets=lagged)
    frozen = replace(config, start_from=Path("start.safetensors"), freeze_actor=True)
    torch.manual_seed(0)
    still = Learner(make_spec(config.resolved(), dataset), config.resolved())
    learner = Learner(still.policy.spec, frozen.resolved())
    learner.load_state_dict(copy.deepcopy(still.state_dict()))
    before = copy.deepcopy(still.state_dict())
    still.actor_optimizer.param_groups[0]["lr"] = 0.0
    for seed in range(5):
        batch = dataset.train.sample(30, torch.Generator().manual_seed(seed))
        info = learner.update(batch, draw(learner, seed))
        expected = still.update(batch, draw(still, seed))
        assert set(info) == {"critic_loss", "td_target_mean", "critic_grad_norm"}
        assert all(torch.equal(value, expected[name]) for name, value in info.items())
    found, expected_state = learner.state_dict(), still.state_dict()
    for name, tensor in found["policy"].items():
        assert torch.equal(tensor, expected_state["policy"][name]), name
        assert name.startswith("critic.") != torch.equal(tensor, before["policy"][name]), name
    for name, tensor in found["target_critic"].items():
        assert torch.equal(tensor, expected_state["target_critic"][name]), name
    for name, tensor in found["target_actor"].items():
        assert torch.equal(tensor, before["target_actor"][name]), name
    assert found["actor_optimizer"]["state"] == {}


def test_a_loaded_state_continues_identically(learner: Learner, dataset: Dataset) -> None:
    batch = dataset.train.sample(30, torch.Generator().manual_seed(0))
    learner.update(batch, draw(learner, 1))
    other = Learner(learner.policy.spec, learner.config)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    found, expected = other.update(batch, draw(learner, 2)), learner.update(batch, draw(learner, 2))
    assert {name: float(value) for name, value in found.items()} == {n: float(v) for n, v in expected.items()}


@pytest.mark.parametrize("compute", ["torch", "native"])
@pytest.mark.parametrize("q_agg", ["mean", "min"])
@pytest.mark.parametrize(("h", "candidates"), [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_td_targets_are_those_of_a_loop(
    dataset_path: Path, compute: Choice, q_agg: Literal["mean", "min"], h: int, candidates: int
) -> None:
    """In float64, one transition and one candidate at a time: r + gamma^h mask max over candidates of agg Q_target."""
    config = TrainConfig(
        hidden=(16, 16),
        batch_size=10,
        discount=0.9,
        q_agg=q_agg,
        action_horizon=h,
        backup_candidates=candidates,
        compute=compute,
        threads=1,
    ).resolved()
    data = load_dataset(TASK, dataset_path, action_horizon=h, discount=0.9)
    torch.manual_seed(0)
    learner = Learner(make_spec(config, data), config)
    actor, critic = (copy.deepcopy(net).double() for net in (learner.policy.actor, learner.target_critic))
    batch = data.train.sample(10, torch.Generator().manual_seed(5))
    # Masks of all sizes, and states at which no one candidate is the best everywhere.
    states = torch.randn((10, 2), generator=torch.Generator().manual_seed(1))
    batch = batch._replace(masks=torch.arange(10) % 4 / 3, next_observations=states)
    draws = draw(learner)
    assert draws.critic_noise.shape == (candidates * 10, 2 * h)
    with torch.no_grad():
        targets, best = [], []
        for row in range(10):
            observation = batch.next_observations[row : row + 1].double()
            values = []
            for candidate in range(candidates):
                x = draws.critic_noise[candidate * 10 + row][None].double()
                k, size = draws.critic_k, 1 / draws.critic_k
                d = torch.full((1, 1), float(k.bit_length() - 1), dtype=torch.float64)
                for step in range(k):
                    x = x + size * actor(actor.observation_share(observation), x, torch.full_like(d, step * size), d)
                q = critic(observation, x.clamp(-1, 1), torch.full_like(d, k)).flatten()
                values.append(float(q.mean() if q_agg == "mean" else q.min()))
            best.append(max(range(candidates), key=values.__getitem__))
            targets.append(float(batch.rewards[row]) + 0.9**h * float(batch.masks[row]) * max(values))
    assert len(set(best)) > 1 or candidates == 1
    found = float(learner.update(batch, draws)["td_target_mean"])
    assert found == pytest.approx(sum(targets) / 10, rel=1e-5)


def test_one_backup_candidate_takes_the_numbers_that_were_drawn_before_there_were_more(learner: Learner) -> None:
    """So that a run from before continues to the same bits: four tensors of noise, in this order."""
    noise = torch.randn((4, 30, 2), generator=torch.Generator().manual_seed(0))
    draws = draw(learner)
    for found, expected in zip(
        (draws.critic_noise, draws.flow_noise, draws.consistency_noise, draws.q_noise), noise, strict=True
    ):
        assert torch.equal(found, expected)


def test_backup_steps_are_those_of_every_td_target_and_change_no_other_draw(dataset: Dataset) -> None:
    """Against a sample of eight steps in float64, with the target critic's values of it."""
    config = TrainConfig(hidden=(16, 16), batch_size=10, max_backprop_steps=4, critic_conditioning="none").resolved()
    torch.manual_seed(0)
    free, fixed = (Learner(make_spec(c, dataset), c) for c in (config, replace(config, backup_steps=8)))
    fixed.load_state_dict(copy.deepcopy(free.state_dict()))
    batch = dataset.train.sample(10, torch.Generator().manual_seed(0))._replace(masks=torch.ones(10))
    for seed in range(8):
        expected, found = draw(free, seed), draw(fixed, seed)
        assert (expected.critic_k <= 4, found.critic_k, found.q_k) == (True, 8, expected.q_k)
        assert all(map(torch.equal, found.tensors(), expected.tensors()))
    actor, critic = (copy.deepcopy(net).double() for net in (fixed.policy.actor, fixed.target_critic))
    with torch.no_grad():
        observation, x = batch.next_observations.double(), found.critic_noise.double()
        share, d = actor.observation_share(observation), torch.full((10, 1), 3.0, dtype=torch.float64)
        for step in range(8):
            x = x + actor(share, x, torch.full_like(d, step / 8), d) / 8
        q = critic(observation, x.clamp(-1, 1), d).mean(0).flatten()
        targets = batch.rewards.double() + (config.discount or 0.0) * q
    assert float(fixed.update(batch, found)["td_target_mean"]) == pytest.approx(float(targets.mean()), rel=1e-5)


@pytest.mark.parametrize("candidates", [1, 4])
def test_a_leaked_td_gradient_reaches_the_actor_by_the_best_candidate(dataset: Dataset, candidates: int) -> None:
    """The gradient is that of an update which samples this candidate alone."""
    config = TrainConfig(hidden=(16, 16), batch_size=1, backup_candidates=candidates, leak_td_gradient=True).resolved()
    torch.manual_seed(0)
    learner = Learner(make_spec(config, dataset), config)
    batch, draws = dataset.train.sample(1, torch.Generator().manual_seed(0)), draw(learner)
    batch = batch._replace(masks=torch.ones(1), next_observations=torch.ones(1, 2))
    draws = draws._replace(critic_noise=0.1 * draws.critic_noise)  # so that no action is clipped

    def gradient(noise: torch.Tensor) -> torch.Tensor:
        single = Learner(learner.policy.spec, replace(config, backup_candidates=len(noise)))
        single.load_state_dict(copy.deepcopy(learner.state_dict()))
        single._critic_step(batch, draws._replace(critic_noise=noise))
        parts = [parameter.grad for parameter in single.policy.actor.parameters()]
        return torch.cat([part.flatten() for part in parts if part is not None])

    def value(noise: torch.Tensor) -> float:
        single = Learner(learner.policy.spec, replace(config, backup_candidates=1))
        single.load_state_dict(copy.deepcopy(learner.state_dict()))
        return float(single._critic_step(batch, draws._replace(critic_noise=noise))["td_target_mean"])

    best = max(draws.critic_noise.split(1), key=value)
    expected = gradient(best)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(draws.critic_noise), expected, rtol=1e-4, atol=1e-7)
