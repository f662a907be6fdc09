"""The order of an update's steps, its averages, and its randomness."""

from __future__ import annotations

import copy

import pytest
import torch

from training.config import TrainConfig
from training.data.dataset import Dataset
from training.learner.draws import Draws, RandomStream
from training.learner.learner import Learner
from training.train import make_spec


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


def test_the_td_error_does_not_train_the_actor(learner: Learner, dataset: Dataset) -> None:
    before = copy.deepcopy(learner.policy.actor.state_dict())
    learner._critic_step(dataset.train.sample(30, torch.Generator().manual_seed(0)), draw(learner))
    for name, tensor in learner.policy.actor.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in learner.policy.actor.parameters())


def test_a_loaded_state_continues_identically(learner: Learner, dataset: Dataset) -> None:
    batch = dataset.train.sample(30, torch.Generator().manual_seed(0))
    learner.update(batch, draw(learner, 1))
    other = Learner(learner.policy.spec, learner.config)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    found, expected = other.update(batch, draw(learner, 2)), learner.update(batch, draw(learner, 2))
    assert {name: float(value) for name, value in found.items()} == {n: float(v) for n, v in expected.items()}
