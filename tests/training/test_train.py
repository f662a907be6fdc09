"""A run resumes exactly, stops at a signal, and writes a policy that can be served."""

from __future__ import annotations

import copy
import csv
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kernels.reference import euler_sample
from policy import CheckpointError, Measurement, ObservationKey, load_policy, save_policy
from tests.training.conftest import TASK
from training.config import TrainConfig
from training.data.dataset import Dataset, load_dataset
from training.learner.draws import RandomStream
from training.learner.learner import Learner
from training.next_actions import NextActionsError
from training.ranges import flag
from training.release.export import ExportConfig, export
from training.start_from import StartError
from training.train import Interrupted, train
from training.trainer import ResumeError, Trainer, return_bounds


@pytest.fixture
def config(dataset_path: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        task=TASK,
        dataset=dataset_path,
        run_dir=tmp_path / "run",
        updates=12,
        hidden=(16, 16),
        batch_size=32,
        log_every=3,
        save_every=100,
        keep_every=8,
        threads=1,
    )


def parameters(path: Path) -> dict[str, torch.Tensor]:
    return load_policy(path).state_dict()


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_run_gives_the_same_policy_and_log(config: TrainConfig, tmp_path: Path) -> None:
    whole = train(config)
    resumed_config = replace(config, run_dir=tmp_path / "resumed", updates=5)
    train(resumed_config)
    resumed = train(replace(resumed_config, updates=12))
    for name, tensor in parameters(whole).items():
        assert torch.equal(parameters(resumed)[name], tensor), name
    assert [row["update"] for row in rows(tmp_path / "resumed")] == ["3", "5", "6", "9", "12"]
    assert rows(tmp_path / "resumed")[-1]["critic_loss"] == rows(config.run_dir or tmp_path)[-1]["critic_loss"]


def test_the_learning_rate_falls_linearly_over_the_last_updates(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(Learner, "set_learning_rate", lambda self, rate: rates.append(rate))
    train(replace(config, learning_rate=1.0, anneal_updates=4))
    assert rates == [1.0] * 9 + [0.75, 0.5, 0.25]


def test_the_policy_has_its_provenance(config: TrainConfig, dataset: Dataset) -> None:
    path = train(config)
    spec = load_policy(path).spec
    assert spec.provenance.environment == TASK
    assert spec.provenance.updates == 12
    assert spec.provenance.dataset_sha256 == dataset.sha256
    assert spec.provenance.config["batch_size"] == 32
    assert spec.control_hz == pytest.approx(10.0)
    kept = load_policy(path.with_name("policy-8.safetensors"))
    assert kept.spec.provenance.updates == 8
    mean = load_policy(path).observation_mean
    torch.testing.assert_close(mean, torch.from_numpy(dataset.observation_mean).float())


def test_an_export_gives_the_trained_file_back_to_the_byte(config: TrainConfig, tmp_path: Path) -> None:
    path = train(config)
    policy = load_policy(path)
    measured = Measurement(4, 2, 0.9, 0.8, 1.0, 200)
    notes = replace(policy.spec.provenance, notes="trained on a Sunday")
    policy.spec = replace(policy.spec, frontier=(measured,), headline=measured, provenance=notes)
    save_policy(policy, tmp_path / "measured.safetensors")
    shipped = ExportConfig(tmp_path / "measured.safetensors", tmp_path / "shipped.safetensors", default_budget=(4, 2))
    assert export(shipped).version != load_policy(path).version
    export(ExportConfig(shipped.out, tmp_path / "again.safetensors", as_trained=True))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_run_starts_from_a_policy(config: TrainConfig, tmp_path: Path) -> None:
    """Its first update starts from the file's networks, and its policies name the file."""
    first = train(config)
    second = replace(config, run_dir=tmp_path / "second", start_from=first, updates=1, learning_rate=1e-12)
    path = train(second)
    for name, tensor in parameters(first).items():
        torch.testing.assert_close(parameters(path)[name], tensor, rtol=0, atol=1e-9)
    provenance = load_policy(path).spec.provenance
    assert provenance.updates == 13
    assert provenance.config["start_from"] == {"version": load_policy(first).version, "updates": 12}
    with pytest.raises(ResumeError, match="the policy to start from"):
        train(replace(second, start_from=path, updates=2))


def test_a_start_with_other_networks_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    first = train(config)
    with pytest.raises(StartError, match=r"expected actor_hidden \(8,\).*found \(16, 16\)"):
        train(replace(config, run_dir=tmp_path / "second", start_from=first, hidden=(8,)))


def test_critics_of_another_width(config: TrainConfig, tmp_path: Path) -> None:
    first = train(config)
    wider = replace(config, run_dir=tmp_path / "second", start_from=first, critic_hidden=(24,))
    with pytest.raises(StartError, match=r"expected critic_hidden \(24,\).*found \(16, 16\)"):
        train(wider)
    spec = load_policy(train(replace(wider, new_critics=True, run_dir=tmp_path / "third"))).spec
    assert (spec.actor_hidden, spec.critic_hidden) == ((16, 16), (24,))


def test_a_frozen_actor_stays_to_the_bit_while_critics_learn(config: TrainConfig, tmp_path: Path) -> None:
    """Also when the run is resumed; its policies, log and provenance say what was trained."""
    first = train(replace(config, q_loss_coef=0.0))
    second = replace(config, run_dir=tmp_path / "second", start_from=first, freeze_actor=True)
    path = train(second)
    before, after = parameters(first), parameters(path)
    for name, tensor in before.items():
        fixed = name.startswith("actor.") or name.startswith("observation_")
        assert torch.equal(after[name], tensor) == fixed, name
    assert any(name.startswith("actor.") for name in before)
    resumed = replace(second, run_dir=tmp_path / "resumed", updates=5)
    train(resumed)
    for name, tensor in parameters(train(replace(resumed, updates=12))).items():
        assert torch.equal(tensor, after[name]), name
    log = rows(tmp_path / "second")
    assert set(log[-1]) == {"update", "critic_loss", "td_target_mean", "critic_grad_norm", "updates_per_second"}
    provenance = load_policy(path).spec.provenance
    assert provenance.updates == 24
    assert (provenance.config["freeze_actor"], provenance.config["new_critics"]) == (True, False)
    assert provenance.config["start_from"] == {"version": load_policy(first).version, "updates": 12}
    with pytest.raises(ResumeError, match=r"freeze_actor \(there True, here False\)"):
        train(replace(second, updates=20, freeze_actor=False))


def test_a_frozen_actor_does_not_change_what_is_drawn(config: TrainConfig, dataset: Dataset) -> None:
    """Batches, noise and k are those of a run that trains the actor, update by update."""
    start = train(config)
    ordinary, frozen = (
        Trainer(replace(config, start_from=start, freeze_actor=freeze).resolved(), dataset) for freeze in (False, True)
    )
    for _ in range(3):
        ordinary.update()
        frozen.update()
        assert ordinary.batch is not None
        assert frozen.batch is not None
        for found, expected in zip(frozen.batch, ordinary.batch, strict=True):
            assert torch.equal(found, expected)
        state = frozen.random.state_dict()
        assert all(torch.equal(state[name], part) for name, part in ordinary.random.state_dict().items())


@pytest.mark.parametrize("freeze", [False, True])
def test_new_critics_are_those_of_a_run_from_nothing(config: TrainConfig, dataset: Dataset, freeze: bool) -> None:
    start = train(config)
    nothing = Trainer(config.resolved(), dataset).learner
    config = replace(config, start_from=start, new_critics=True, freeze_actor=freeze)
    learner = Trainer(config.resolved(), dataset).learner
    for name, tensor in nothing.policy.critic.state_dict().items():
        assert torch.equal(learner.policy.critic.state_dict()[name], tensor), name
        assert torch.equal(learner.target_critic.state_dict()[name], tensor), name
    for name, tensor in load_policy(start).actor.state_dict().items():
        assert torch.equal(learner.policy.actor.state_dict()[name], tensor), name
        assert torch.equal(learner.target_actor.state_dict()[name], tensor), name


def test_new_critics_may_be_other_networks(config: TrainConfig, tmp_path: Path) -> None:
    start = train(config)
    three = replace(config, run_dir=tmp_path / "three", start_from=start, freeze_actor=True, ensemble_size=3)
    with pytest.raises(StartError, match="expected ensemble_size 3, as in this run, found 2"):
        train(three)
    assert load_policy(train(replace(three, new_critics=True))).spec.ensemble_size == 3


@pytest.mark.parametrize("name", ["freeze_actor", "new_critics"])
def test_what_needs_a_start_is_refused_without(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{flag(name)} needs --start-from"):
        TrainConfig(**{name: True})  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"leak_td_gradient": True}, {"shared_optimizer": True}, {"preset": "reference"}])
def test_a_frozen_actor_excludes_what_trains_it(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^--freeze-actor excludes .*{flag(next(iter(change)))}"):
        TrainConfig(start_from=Path("start.safetensors"), freeze_actor=True, **change)


@pytest.mark.parametrize(
    "change",
    [{"leak_td_gradient": True}, {"shared_optimizer": True}, {"lagged_targets": True}, {"preset": "reference"}],
)
def test_frozen_critics_exclude_what_joins_their_step_and_the_actors(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^--freeze-critics excludes .*{flag(next(iter(change)))}"):
        TrainConfig(q_loss_coef=0.0, freeze_critics=True, **change)


def test_frozen_critics_are_refused_where_nothing_is_left_to_learn_from() -> None:
    with pytest.raises(ValueError, match="needs --q-loss-coef 0, or --start-from"):
        TrainConfig(freeze_critics=True)
    with pytest.raises(ValueError, match="leave nothing to train"):
        TrainConfig(start_from=Path("start.safetensors"), freeze_actor=True, freeze_critics=True)


def test_with_frozen_critics_the_actor_learns_as_beside_ones_that_learn(config: TrainConfig, tmp_path: Path) -> None:
    """Without a Q loss, to the bit; the critics stay, and the log has no columns of theirs."""
    config = replace(config, q_loss_coef=0.0)
    start = train(replace(config, run_dir=tmp_path / "start", updates=2, seed=1))
    config = replace(config, start_from=start)
    both = parameters(train(config))
    alone = parameters(train(replace(config, run_dir=tmp_path / "alone", freeze_critics=True)))
    for name, tensor in alone.items():
        assert torch.equal(tensor, (parameters(start) if name.startswith("critic.") else both)[name]), name
    assert any(not torch.equal(both[name], tensor) for name, tensor in alone.items())  # of the critics
    names = {"flow_loss", "consistency_loss", "actor_loss", "actor_grad_norm"}
    assert set(rows(tmp_path / "alone")[-1]) == {"update", "updates_per_second"} | names
    provenance = load_policy(tmp_path / "alone" / "policy.safetensors").spec.provenance
    assert provenance.config["freeze_critics"] is True


def test_a_policy_of_chunks(config: TrainConfig, tmp_path: Path) -> None:
    """Its spec says h, a run of it resumes exactly, and neither resuming nor starting from it takes another h."""
    config = replace(config, action_horizon=3, backup_candidates=2)
    whole = train(config)
    policy = load_policy(whole)
    assert (policy.spec.action_horizon, policy.spec.action_dim, policy.spec.chunk_dim) == (3, 2, 6)
    assert policy.spec.provenance.config["action_horizon"] == 3
    assert policy.spec.provenance.config["backup_candidates"] == 2
    resumed = replace(config, run_dir=tmp_path / "resumed", updates=5)
    train(resumed)
    for name, tensor in parameters(train(replace(resumed, updates=12))).items():
        assert torch.equal(tensor, policy.state_dict()[name]), name
    for name in ("action_horizon", "backup_candidates"):
        with pytest.raises(ResumeError, match=rf"{name} \(there {getattr(config, name)}, here 1\)"):
            train(replace(config, updates=20, **{name: 1}))  # type: ignore[arg-type]
    with pytest.raises(StartError, match="expected action_horizon 2, as in this run, found 3"):
        train(replace(config, run_dir=tmp_path / "second", start_from=whole, action_horizon=2))


def test_next_actions_sampled_once_are_those_of_the_frozen_actor(config: TrainConfig, tmp_path: Path) -> None:
    """They are in every TD target; another run with the file learns the same; and a file of others is refused."""
    start = train(replace(config, run_dir=tmp_path / "start", updates=3))
    frozen = replace(
        config,
        start_from=start,
        freeze_actor=True,
        new_critics=True,
        critic_conditioning="none",
        backup_candidates=2,
        backup_steps=4,
        next_actions=tmp_path / "next.safetensors",
        normaliser="identity",
        discount=0.9,
        updates=4,
    ).resolved()
    first = train(replace(frozen, run_dir=tmp_path / "first"))
    kept = load_file(tmp_path / "next.safetensors")["next_actions"]
    assert frozen.dataset is not None
    dataset = load_dataset(TASK, frozen.dataset)
    assert kept.shape == (len(dataset.train), 2, 2)
    actor = load_policy(start).actor.double()
    noise = torch.randn((2 * len(dataset.train), 2), generator=torch.Generator().manual_seed(frozen.seed))
    with torch.no_grad():
        share = actor.observation_share(dataset.train.next_observations.double()).repeat(2, 1)
        expected = euler_sample(actor, share, noise.double(), 4, frozen.denoise_timesteps)
    torch.testing.assert_close(kept, expected.view(2, -1, 2).transpose(0, 1).float(), rtol=1e-4, atol=1e-5)

    trainer = Trainer(frozen, dataset)
    trainer.draw_ahead()
    index = dataset.train.draw(frozen.batch_size, RandomStream("cpu", frozen.seed).device)
    critic, batch = copy.deepcopy(trainer.learner.target_critic).double(), dataset.train.at(index)
    k = torch.zeros((len(index), 1), dtype=torch.float64)
    with torch.no_grad():
        q = [critic(batch.next_observations.double(), kept[index, n].double(), k).mean(0).flatten() for n in (0, 1)]
    target = batch.rewards.double() + 0.9 * batch.masks * torch.maximum(*q)
    assert float(trainer.update()["td_target_mean"]) == pytest.approx(float(target.mean()), rel=1e-4)

    again = train(replace(frozen, run_dir=tmp_path / "again"))
    for name, tensor in parameters(first).items():
        assert torch.equal(tensor, parameters(again)[name]), name
    with pytest.raises(NextActionsError, match=r"other backup_steps \(4 there, 2 here\)"):
        train(replace(frozen, run_dir=tmp_path / "other", backup_steps=2))
    with pytest.raises(ResumeError, match=r"next_actions \(there 'sampled once', here 'sampled anew'\)"):
        train(replace(frozen, run_dir=tmp_path / "first", next_actions=None, updates=8))
    (tmp_path / "next.safetensors").write_bytes(b"no")
    with pytest.raises(NextActionsError, match="not a file of next actions"):
        train(replace(frozen, run_dir=tmp_path / "other"))


def test_a_run_of_an_older_version_continues(config: TrainConfig) -> None:
    train(config)
    assert config.run_dir is not None
    path = config.run_dir / "resume.pt"
    state = torch.load(path, weights_only=True)
    frozen = ("freeze_actor", "freeze_critics", "new_critics", "next_actions")
    for name in ("action_horizon", "backup_candidates", "backup_steps", *frozen):
        del state["stream"][name]
    torch.save(state, path)
    assert load_policy(train(replace(config, updates=13))).spec.provenance.updates == 13


def test_an_interrupted_run_is_saved_and_continues_exactly(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    update = Trainer.update

    def interrupted(self: Trainer) -> dict[str, torch.Tensor]:
        info = update(self)
        if self.done == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return info

    monkeypatch.setattr(Trainer, "update", interrupted)
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.undo()
    assert config.run_dir is not None
    assert torch.load(config.run_dir / "resume.pt", weights_only=True)["done"] == 7
    continued = train(config)
    whole = train(replace(config, run_dir=tmp_path / "whole"))
    for name, tensor in parameters(whole).items():
        assert torch.equal(parameters(continued)[name], tensor), name


def test_a_run_does_not_resume_with_other_settings(config: TrainConfig) -> None:
    train(config)
    with pytest.raises(ResumeError, match="learning_rate"):
        train(replace(config, updates=20, learning_rate=1e-3))


def test_divergence_stops_the_run(config: TrainConfig) -> None:
    with pytest.raises(FloatingPointError, match="lower --learning-rate"):
        train(replace(config, learning_rate=1e30, updates=60))


def test_a_loss_that_is_not_finite_ends_the_run_at_once(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of it is saved or kept, whatever the intervals are."""
    update = Learner.update
    done = 0

    def spoiled(self: Learner, *arguments: Any) -> dict[str, torch.Tensor]:
        nonlocal done
        done += 1
        info = update(self, *arguments)
        return info | {"flow_loss": info["flow_loss"] * float("nan")} if done == 6 else info

    monkeypatch.setattr(Learner, "update", spoiled)
    seen = r"^flow_loss is nan at update 6, whose batch had observations .* rewards -1 to .*of update 5 is kept$"
    with pytest.raises(FloatingPointError, match=seen):
        train(replace(config, updates=60, log_every=50, save_every=5, keep_every=6))
    assert config.run_dir is not None
    assert torch.load(config.run_dir / "resume.pt", weights_only=True)["done"] == 5
    assert load_policy(config.run_dir / "policy.safetensors").spec.provenance.updates == 5
    assert not (config.run_dir / "policy-6.safetensors").exists()
    monkeypatch.undo()
    assert load_policy(train(config)).spec.provenance.updates == 12  # it continues


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_torch_does_not_have_is_refused(config: TrainConfig, device: str) -> None:
    with pytest.raises(ValueError, match=f"^--device {device}: [^\n]*$"):
        train(replace(config, device=device, dataset=Path("absent.npz")))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"clip_targets": True},
        {"normaliser": "standardise"},
        {"critic_conditioning": "none"},
        {"q_agg": "min"},
        {"precision": "bf16"},
    ],
)
def test_training_lowers_the_flow_loss(config: TrainConfig, change: dict[str, str]) -> None:
    """Within a hundred updates, with every variant."""
    config = replace(config, learning_rate=3e-3, updates=100, log_every=5, **change)  # type: ignore[arg-type]
    train(config)
    assert config.run_dir is not None
    log = rows(config.run_dir)
    assert float(log[-1]["flow_loss"]) < 0.9 * float(log[0]["flow_loss"])


def test_td_targets_are_clipped_to_possible_returns(config: TrainConfig, dataset: Dataset) -> None:
    assert return_bounds(replace(config, discount=0.99), dataset) == pytest.approx((-100.0, 0.0))
    # In steps of -1, three in a row make -1 - 0.99 - 0.99^2; no return is beyond -100 still.
    chunks = replace(config, discount=0.99, action_horizon=3)
    windows = load_dataset(TASK, config.dataset or Path(), action_horizon=3, discount=0.99)
    assert float(windows.train.rewards.min()) == pytest.approx(-2.9701)
    assert return_bounds(chunks, windows) == pytest.approx((-100.0, 0.0))
    trainer = Trainer(replace(config, clip_targets=True).resolved(), dataset)
    for critic in (trainer.learner.policy.critic, trainer.learner.target_critic):
        critic.layers[-1].bias.data.fill_(50.0)  # type: ignore[operator, union-attr]
    assert float(trainer.update()["td_target_mean"]) <= 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"tau": 0.0},
        {"discount": 1.0},
        {"denoise_timesteps": 6},
        {"max_backprop_steps": 16},
        {"backup_steps": 16, "critic_conditioning": "none"},
        {"backup_steps": 8},
        {"next_actions": Path("next.safetensors")},
        {"action_horizon": 65},
        {"updates": 0},
    ],
)
def test_errors_name_settings_out_of_range(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=flag(next(iter(change)))):
        TrainConfig(**change)  # type: ignore[arg-type]


def test_defaults_are_the_papers_for_the_environment() -> None:
    config = TrainConfig(task="antmaze-giant-navigate-singletask-task1-v0").resolved()
    assert (config.discount, config.q_agg, config.q_loss_coef) == (0.995, "min", 500.0)
    assert str(config.dataset) == "data/antmaze-giant-navigate-v0.npz"
    assert TrainConfig(task="scene-play-singletask-task2-v0", discount=0.9).resolved().discount == 0.9


def test_the_policy_knows_the_parts_of_its_observation(config: TrainConfig) -> None:
    """Naming them changes nothing that is learned: a run may go on under other names."""
    first = load_policy(train(replace(config, observation_keys="y=1,x=1")))
    assert first.spec.observation_keys == (ObservationKey("y", 1), ObservationKey("x", 1))
    renamed = load_policy(train(replace(config, observation_keys="position=2", updates=13)))
    assert renamed.spec.observation_keys == (ObservationKey("position", 2),)


def test_parts_that_do_not_fit_the_data_are_refused(config: TrainConfig) -> None:
    with pytest.raises(CheckpointError, match=r"observation_keys must add up to 2 \(obs_dim\), found 8"):
        train(replace(config, observation_keys="joint_pos=7,gripper=1"))


@pytest.mark.parametrize("text", ["", "arm", "arm=", "=7", "arm=x", "arm=7,", "arm=-7", "arm:7", "arm=7 tool=1"])
def test_parts_in_another_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"--observation-keys must be NAME=SIZE,NAME=SIZE"):
        TrainConfig(observation_keys=text)
