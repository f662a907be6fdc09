"""Updates replayed from CUDA graphs equal those of torch's operators; most tests need a card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.backend import BackendUnavailable
from policy import save_policy
from tests.training.conftest import TASK
from training.config import TrainConfig
from training.data.dataset import load_dataset
from training.learner.compute import Choice, choose_compute
from training.learner.draws import RandomStream
from training.learner.learner import Learner
from training.trainer import Trainer, make_spec

needs_card = pytest.mark.gpu
UPDATES = 60  # every k of 1, 2, 4, 8 a dozen times, for the critic and for the actor


def test_graphs_without_a_card_are_an_error() -> None:
    with pytest.raises(BackendUnavailable, match="compute: graphs are captured on a CUDA device, not on cpu"):
        choose_compute("graphs", torch.device("cpu"), "fp32")


def trained(config: TrainConfig, path: Path, compute: Choice, device: str = "cuda") -> Learner:
    """A learner after UPDATES updates with a falling step size."""
    config = replace(config, compute=compute, device=device, updates=UPDATES, anneal_updates=UPDATES).resolved()
    trainer = Trainer(config, load_dataset(TASK, path, device))
    totals: dict[str, float] = {}
    for _ in range(UPDATES):
        for name, value in trainer.update().items():
            totals[name] = totals.get(name, 0.0) + float(value)
    assert all(total == total for total in totals.values())
    return trainer.learner


@needs_card
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_replayed_updates_equal_eager_ones(precision: str, preset: str, dataset_path: Path) -> None:
    config = TrainConfig(task=TASK, hidden=(64, 64), batch_size=48, precision=precision, preset=preset)  # type: ignore[arg-type]
    eager, graphs = (trained(config, dataset_path, compute) for compute in ("torch", "graphs"))
    assert graphs.compute.name == f"graphs/{precision}/cuda"
    found, expected = graphs.state_dict(), eager.state_dict()
    for part in ("policy", "target_actor", "target_critic"):
        for name, tensor in expected[part].items():
            torch.testing.assert_close(found[part][name], tensor, rtol=1e-4, atol=1e-5, msg=f"{part}.{name}")


@needs_card
def test_replayed_updates_of_the_critics_alone_equal_eager_ones(dataset_path: Path, tmp_path: Path) -> None:
    """With a frozen actor, which stays to the bit."""
    config = TrainConfig(task=TASK, hidden=(64, 64), batch_size=48)
    start = Trainer(config.resolved(), load_dataset(TASK, dataset_path)).learner.policy
    save_policy(start, tmp_path / "start.safetensors")
    config = replace(config, start_from=tmp_path / "start.safetensors", freeze_actor=True)
    eager, graphs = (trained(config, dataset_path, compute) for compute in ("torch", "graphs"))
    for name, tensor in eager.policy.state_dict().items():
        torch.testing.assert_close(graphs.policy.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    for name, tensor in start.actor.state_dict().items():
        assert torch.equal(graphs.policy.actor.state_dict()[name].cpu(), tensor), name
    assert not torch.equal(graphs.policy.critic.state_dict()["layers.0.weight"].cpu(), start.critic.layers[0].weight)


@needs_card
def test_a_run_moves_from_a_cpu_to_a_card(dataset_path: Path) -> None:
    config = TrainConfig(task=TASK, hidden=(32, 32), batch_size=30).resolved()
    dataset = load_dataset(TASK, dataset_path, "cpu")
    before = Trainer(config, dataset)
    before.update()
    card = Learner(make_spec(config, dataset), replace(config, device="cuda"))
    card.load_state_dict(before.learner.state_dict())
    card.set_learning_rate(1e-3)
    batch = before.dataset.train.sample(30, before.random.device)
    before.learner.set_learning_rate(1e-3)
    draws = before.learner.draw(RandomStream("cpu", 5))
    before.learner.update(batch, draws)
    moved = draws.replace_tensors([tensor.cuda() for tensor in draws.tensors()])
    card.update(type(batch)(*(tensor.cuda() for tensor in batch)), moved)
    for name, tensor in before.learner.policy.state_dict().items():
        torch.testing.assert_close(card.policy.state_dict()[name].cpu(), tensor, rtol=1e-3, atol=2e-5, msg=name)
