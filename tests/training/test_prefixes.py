"""Training with prefixes: what a batch has, what the Q loss may change, and a run from data to file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.backend import SampleBatch
from kernels.commitment import network_input
from kernels.reference import ReferenceBackend
from policy import in_prefix, load_policy
from tests.training.conftest import TASK
from training import losses
from training.batch import Batch
from training.config import TrainConfig
from training.data.dataset import Dataset
from training.learner.draws import RandomStream
from training.learner.learner import Learner
from training.prefixes import with_prefixes
from training.train import train
from training.trainer import make_spec

CONFIG = TrainConfig(hidden=(16, 16), batch_size=256, action_horizon=4, prefix_max=2, max_backprop_steps=2).resolved()


@pytest.fixture
def learner(dataset: Dataset) -> Learner:
    torch.manual_seed(0)
    return Learner(make_spec(CONFIG, dataset), CONFIG)


def batch_of(learner: Learner, rows: int = 256) -> Batch:
    spec, generator = learner.policy.spec, torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(shape, generator=generator) * 2 - 1  # noqa: E731
    observations, actions = draw(rows, spec.obs_dim), draw(rows, spec.chunk_dim)
    return Batch(observations, actions, draw(rows), torch.ones(rows), draw(rows, spec.obs_dim))


def test_half_of_the_rows_have_a_prefix_of_their_own_chunk(learner: Learner) -> None:
    spec, plain = learner.policy.spec, batch_of(learner, 4000)
    batch = with_prefixes(plain, spec, torch.Generator().manual_seed(1))
    width, dim = spec.obs_dim, spec.action_dim
    flags = batch.observations[:, -2:]
    counts = torch.bincount(flags.sum(1).long(), minlength=3).tolist()
    assert 1900 < counts[0] < 2100  # half of them; the standard deviation is 32
    assert min(counts[1:]) > 900
    assert set(map(tuple, flags.tolist())) == {(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)}
    assert torch.equal(batch.observations[:, :width], plain.observations)
    for step in range(2):
        there = flags[:, step, None]
        found = batch.observations[:, width + step * dim : width + (step + 1) * dim]
        assert torch.equal(found, there * plain.actions[:, step * dim : (step + 1) * dim])
    assert torch.equal(batch.next_observations[:, :width], plain.next_observations)
    assert not batch.next_observations[:, width:].any()
    assert torch.equal(batch.actions, plain.actions)


def test_the_q_loss_is_that_of_the_chunk_that_is_executed(learner: Learner) -> None:
    """Its first actions are the prefix's, whatever the policy proposes; by hand for each row."""
    spec = learner.policy.spec
    batch = with_prefixes(batch_of(learner, 16), spec, torch.Generator().manual_seed(1))
    seen = []

    def critic(observation: torch.Tensor, action: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
        seen.append(action)
        return learner.policy.critic(observation, action, num_steps)

    noise = torch.randn(16, spec.chunk_dim, generator=torch.Generator().manual_seed(2))
    actor = learner.policy.actor
    share = actor.observation_share(batch.observations)
    fixed = in_prefix(spec, batch.observations), batch.actions
    loss, _ = losses.q_loss(actor, critic, batch.observations, share, noise, 2, 8, fixed=fixed)
    proposed = losses.sample(actor, share, noise, 2, 8)
    for row in range(16):
        length = int(batch.observations[row, -2:].sum()) * spec.action_dim
        assert torch.equal(seen[0][row, :length], batch.actions[row, :length])
        assert torch.equal(seen[0][row, length:], proposed[row, length:])
    (gradient,) = torch.autograd.grad(loss, seen[0], retain_graph=True)
    (of_proposal,) = torch.autograd.grad(seen[0], proposed if proposed.grad_fn is None else share, gradient)
    assert of_proposal.any()


def test_a_learners_update_passes_what_is_fixed(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, given = learner.policy.spec, []
    real = losses.q_loss

    def spy(*arguments: object, **keywords: object) -> object:
        given.append(arguments[8])
        return real(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(losses, "q_loss", spy)
    batch = with_prefixes(batch_of(learner), spec, torch.Generator().manual_seed(1))
    learner.update(batch, learner.draw(RandomStream("cpu", 0)))
    mask, actions = given[0]  # type: ignore[misc]
    counts = batch.observations[:, -2:].sum(1) * spec.action_dim
    assert torch.equal(mask.sum(1).float(), counts)
    assert torch.equal(actions, batch.actions)


def test_a_run_learns_to_continue_its_prefix(dataset_path: Path, tmp_path: Path) -> None:
    """After some hundred updates of imitation alone, candidates begin as their prefix does, and without one they do
    not. The data's neighbouring actions differ by far more than that."""
    config = replace(
        TrainConfig(),
        task=TASK,
        dataset=dataset_path,
        run_dir=tmp_path / "run",
        hidden=(64, 64),
        batch_size=256,
        updates=600,
        learning_rate=3e-3,
        q_loss_coef=0.0,
        action_horizon=4,
        prefix_max=2,
        normaliser="standardise",
    )
    policy = load_policy(train(config))
    spec = policy.spec
    assert (spec.prefix_max, spec.provenance.config["prefix_max"]) == (2, 2)
    assert policy.observation_mean[spec.obs_dim :].tolist() == [0.0] * (spec.input_dim - spec.obs_dim)
    assert policy.observation_std[spec.obs_dim :].tolist() == [1.0] * (spec.input_dim - spec.obs_dim)

    rng = np.random.default_rng(0)
    observation = np.tile(policy.observation_mean[: spec.obs_dim].numpy(), (64, 1))
    committed = rng.uniform(-0.8, 0.8, (64, 2, spec.action_dim)).astype(np.float32)
    backend = ReferenceBackend(policy)

    def begins(inputs: np.ndarray) -> np.ndarray:
        return backend.sample_and_score(SampleBatch.of(inputs, 1, 8, range(64))).action[:, : 2 * spec.action_dim]

    told = np.abs(begins(network_input(spec, observation, committed)) - committed.reshape(64, -1)).mean()
    untold = np.abs(begins(network_input(spec, observation)) - committed.reshape(64, -1)).mean()
    assert told < 0.5 * untold, (told, untold)


def test_a_prefix_is_shorter_than_the_chunk() -> None:
    with pytest.raises(ValueError, match=r"--prefix-max must be at most 3 \(--action-horizon minus 1\), got 4"):
        TrainConfig(action_horizon=4, prefix_max=4)
