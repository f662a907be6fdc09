"""TOML descriptions of sweeps, and the errors of wrong ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from training.sweep import description
from training.sweep.description import make_sweep, read_description
from training.sweep.errors import SettingError, SweepError, UnknownName
from training.sweep.plan import Evaluation, Sweep, plan


def test_the_example_in_the_modules_docstring(tmp_path: Path) -> None:
    text = (description.__doc__ or "").split("TOML file:\n", 1)[1]
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    assert make_sweep(read_description(path)) == Sweep(
        tasks=("pointmaze-medium-navigate-singletask-task1-v0",),
        seeds=(0, 1, 2),
        settings={"hidden": (128, 128, 128), "learning_rate": 3e-4, "updates": 20000},
        grid={"q_loss_coef": (300.0, 1000.0), "q_agg": ("mean", "min")},
        evaluations=(Evaluation((1, 2, 8), (1, 2, 4), 50, 10000),),
    )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", SettingError, "tasks: at least one"),
        ("tasks = []", SettingError, "tasks: at least one"),
        ("tasks = 'maze'", SettingError, "tasks must be a list"),
        ("task = ['maze']", UnknownName, "did you mean tasks"),
        ("grid = {learning_rat = [1]}", UnknownName, "did you mean learning_rate"),
        ("settings = {learning_rat = 1}", UnknownName, "settings: .*did you mean learning_rate"),
        ("evaluate = [{episode = 1}]", UnknownName, "did you mean episodes"),
        ("evaluate = {episodes = 1}", SettingError, r"\[\[evaluate\]\]"),
        ("settings = {seed = 1}", SettingError, "use seeds"),
        ("grid = {run_dir = ['x']}", SettingError, "use --out"),
        ("grid = {tau = 0.01}", SettingError, "tau must be a list"),
        ("grid = {tau = []}", SettingError, "tau has no values"),
        ("grid = 3", SettingError, "must be a table"),
        ("settings = {tau = 1}\ngrid = {tau = [1]}", SettingError, "tau is set both"),
        ("updates = 3\ngrid = {updates = [1]}", SettingError, "updates is set"),
        ("variants = {tau = 0.1}", SettingError, r"\[\[variants\]\]"),
        ("variants = [{learning_rat = 1}]", UnknownName, "variants: .*did you mean learning_rate"),
        ("variants = [{seed = 1}]", SettingError, "variants: seed .*use seeds"),
        ("variants = [{tau = 'x'}]", SettingError, "variants: tau must be a number"),
        ("variants = [{tau = 0.1}, {}]", SettingError, "variants: one of them changes nothing"),
        ("variants = [{tau = 0.1}]\ngrid = {q_loss_coef = [1]}", SettingError, "grid and variants are both given"),
        ("evaluate = [{num_steps = [1]}, {num_steps = [1, 2]}]", SettingError, "occurs twice"),
    ],
)
def test_a_wrong_description_is_refused(text: str, error: type[SweepError], message: str) -> None:
    parsed = tomllib.loads(text)
    if "tasks" not in text and "task " not in text and text:
        parsed["tasks"] = ["maze"]
    with pytest.raises(error, match=message):
        make_sweep(parsed)


def test_variants_have_the_types_of_their_fields() -> None:
    sweep = make_sweep({"tasks": ["maze"], "variants": [{"shared_optimizer": True}, {"hidden": [8], "tau": 1}]})
    assert sweep.variants == ({"shared_optimizer": True}, {"hidden": (8,), "tau": 1.0})


def test_errors_name_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"nothing\.toml"):
        read_description(tmp_path / "nothing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("tasks = [")
    with pytest.raises(SweepError, match=r"broken\.toml"):
        read_description(broken)


def test_the_example_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text()
    sweep = make_sweep(tomllib.loads(text.split("```toml\n")[1].split("```")[0]))
    assert [len(evaluation.cells()) for evaluation in sweep.evaluations] == [9, 1]
    assert len(plan(sweep, Path("/out"), Path("/data"), cpus=1)) == 12
