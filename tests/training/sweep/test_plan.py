"""A sweep's runs: every combination once, in order, each in a folder with a stable name."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from tests.training.conftest import TASK
from training.data.dataset import DatasetError
from training.sweep.errors import SettingError, SweepError
from training.sweep.plan import MAX_NAME_BYTES, Evaluation, Sweep, plan, require_inputs, setting_name

SWEEP = Sweep(
    tasks=("b-play-singletask-v0", "a-play-singletask-v0"),
    seeds=(1, 0),
    settings={"updates": 10},
    grid={"q_agg": ("min", "mean"), "hidden": ((64, 64), (8,)), "learning_rate": (3e-4,)},
)


def names(sweep: Sweep) -> list[str]:
    return [run.name for run in plan(sweep, Path("/out"), Path("/data"), cpus=1)]


def test_every_combination_once_in_order() -> None:
    combinations = product(SWEEP.tasks, ("64x64", "8"), ("min", "mean"), (1, 0))
    assert names(SWEEP) == [
        f"{task}/hidden={hidden},learning_rate=0.0003,q_agg={q_agg}/seed-{seed}"
        for task, hidden, q_agg, seed in combinations
    ]
    shuffled = replace(SWEEP, grid=dict(reversed(SWEEP.grid.items())))
    assert names(shuffled) == names(SWEEP)


def test_variants_are_single_changes_beside_the_plain_settings() -> None:
    changes = ({"q_loss_coef": 300.0}, {"updates": 20, "q_agg": "min"})
    sweep = replace(SWEEP, tasks=("a-play-singletask-v0",), grid={}, variants=changes)
    settings = ("default", "q_loss_coef=300", "updates=20,q_agg=min")
    assert names(sweep) == [f"a-play-singletask-v0/{setting}/seed-{seed}" for setting in settings for seed in (1, 0)]
    runs = plan(sweep, Path("/out"), Path("/data"), cpus=1)
    assert [run.config.updates for run in runs] == [10, 10, 10, 10, 20, 20]
    assert [run.config.q_loss_coef for run in runs[:3]] == [10.0, 10.0, 300.0]


def test_a_run_keeps_its_folder_when_the_grid_grows() -> None:
    larger = replace(SWEEP, seeds=(1, 0, 5), grid={**SWEEP.grid, "q_agg": ("min", "mean")[::-1]})
    assert set(names(SWEEP)) < set(names(larger))


def test_a_run_has_the_sweeps_settings() -> None:
    run = plan(SWEEP, Path("/out"), Path("/data"), cpus=2.5)[0]
    assert run.varied == {"hidden": (64, 64), "learning_rate": 3e-4, "q_agg": "min"}
    assert run.folder == Path("/out") / run.name
    assert run.dataset == Path("/data/b-play-v0.npz")
    assert (run.config.task, run.config.seed, run.config.updates, run.config.threads) == (SWEEP.tasks[0], 1, 10, 2)
    named = plan(replace(SWEEP, settings={"dataset": Path("/mine.npz")}), Path("/out"), Path("/data"), 1)
    assert {run.dataset for run in named} == {Path("/mine.npz")}
    assert names(replace(SWEEP, tasks=("a",), seeds=(3,), grid={})) == ["a/default/seed-3"]


def test_names_are_safe_and_short() -> None:
    assert setting_name({"dataset": Path("/a b/c.npz"), "clip_targets": True}) == "dataset=_a_b_c.npz,clip_targets=true"
    assert setting_name({"q_loss_coef": 300.0, "tau": 0.005}) == "q_loss_coef=300,tau=0.005"
    long = [setting_name({"dataset": Path("x" * 300 + end)}) for end in "ab"]
    assert {len(name) for name in long} == {MAX_NAME_BYTES}
    assert long[0] != long[1]


def test_the_digest_covers_everything_that_determines_a_result() -> None:
    def digest(**changes: object) -> str:
        sweep = replace(SWEEP, **changes)  # type: ignore[arg-type]
        return plan(sweep, Path("/out"), Path("/data"), cpus=1)[0].digest()

    assert digest() == digest(evaluations=(Evaluation(),))
    assert digest() == plan(SWEEP, Path("/elsewhere"), Path("/other"), cpus=4)[0].digest()
    changed = [
        digest(settings={"updates": 11}),
        digest(settings={"updates": 10, "anneal_updates": 2}),
        digest(settings={"updates": 10, "tau": 0.1}),
        digest(seeds=(2,)),
        digest(evaluations=(Evaluation(episodes=51),)),
        digest(evaluations=(Evaluation(first_seed=1),)),
        digest(evaluations=(Evaluation(num_steps=(1,)),)),
    ]
    assert len({digest(), *changed}) == 1 + len(changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 0)}, "occurs twice"),
        ({"grid": {"q_loss_coef": (300.0, 300.0)}}, "occurs twice"),
        ({"grid": {}, "variants": ({"tau": 0.1}, {"tau": 0.1})}, "occurs twice"),
        ({"grid": {}, "variants": ({"tau": 2.0},)}, "--tau must be above 0 and at most 1"),
        ({"settings": {"tau": 2.0}}, "--tau must be above 0 and at most 1"),
        ({"settings": {"denoise_timesteps": 4, "max_backprop_steps": 4}}, "--num-steps must be at most"),
        ({"evaluations": (Evaluation(episodes=0),)}, "--episodes must be from 1"),
    ],
)
def test_impossible_runs_are_refused_before_any_starts(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        names(replace(SWEEP, **changes))  # type: ignore[arg-type]


def test_missing_datasets_and_unknown_tasks_are_found(dataset_path: Path, tmp_path: Path) -> None:
    def runs(task: str, dataset: Path) -> list:
        return plan(Sweep((task,), settings={"dataset": dataset}), tmp_path, tmp_path, cpus=1)

    require_inputs(runs(TASK, dataset_path))
    with pytest.raises(DatasetError, match=r"nothing\.npz does not exist"):
        require_inputs(runs(TASK, tmp_path / "nothing.npz"))
    lonely = tmp_path / "lonely.npz"
    lonely.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"lonely-val\.npz does not exist"):
        require_inputs(runs(TASK, lonely))
    with pytest.raises(SweepError, match=r"^--tasks: OGBench has no task 'chess'"):
        require_inputs(runs("chess", dataset_path))
