"""From run folders to a page: everything runs once, interruptions continue, and the page agrees with the tables."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policy import Provenance, load_policy, save_policy
from tests.policies import random_policy
from tests.training.conftest import TASK
from tests.training.results.conftest import SMALL, InProcess, save_run
from training.episode_table import COLUMNS
from training.episodes import EpisodeResult, Job
from training.results.cli import ResultsConfig, render, run, study
from training.results.errors import RecordError, ResultsError
from training.results.experiments import TaskExperiments
from training.results.plan import Plan
from training.results.plots import PLOTS
from training.results.record import record_folder
from training.results.runs import find_runs


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "runs"
    return save_run(folders / f"{TASK}-0", 0, (10, 20)), save_run(folders / f"{TASK}-1", 1, (10, 20))


def experiments_of(tmp_path: Path, jobs: Any) -> TaskExperiments:
    return TaskExperiments(tmp_path / "out" / TASK, SMALL, lanes=4, run=jobs)


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_whole_study_runs_once_and_renders_again(
    runs: tuple[Path, Path], tmp_path: Path, in_process: InProcess
) -> None:
    experiments = experiments_of(tmp_path, in_process)
    page = study(experiments, find_runs(runs[:1]), find_runs(runs[1:]))
    assert page == tmp_path / "out" / f"{TASK}.md"
    text = page.read_text()
    assert "Everything planned was run." in text
    assert "not run" not in text.lower().replace("## not run", "")
    for name in PLOTS:
        assert (experiments.folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert f"]({TASK}/{name}.png)" in text
    # Grid 6 cells, random and worst at 2 N each, 3 episodes; up to 8 report cells, 4 episodes.
    first = find_runs(runs[:1])[0].last
    episodes = table(record_folder(experiments.folder, first.version), "episodes")
    assert len(episodes) == 3 * 6 + 3 * 4 + 4 * len(table_cells(experiments.folder, "report"))
    assert len(in_process.jobs) == len(episodes) + 3 * 2 * 3  # and the three other checkpoints of the learning curves

    again = InProcess()
    assert study(experiments_of(tmp_path, again), find_runs(runs[:1]), find_runs(runs[1:])).read_text() == text
    assert again.jobs == []
    for path in runs:
        for file in path.iterdir():
            file.unlink()
    page.unlink()
    assert render(experiments.folder).read_text() == text


def table_cells(folder: Path, seeds: str) -> list[dict[str, str]]:
    return [row for row in table(folder, "cells") if row["seeds"] == seeds]


def test_the_page_agrees_with_the_tables(runs: tuple[Path, Path], tmp_path: Path, in_process: InProcess) -> None:
    experiments = experiments_of(tmp_path, outcomes)
    text = study(experiments, find_runs(runs), [], only=("grid", "claims", "verifier")).read_text()
    for label in ("seed 0", "seed 1"):
        grid = text.split(f"### {label}\n")[1].split("Best cell")[0]
        shown = dict(re.findall(r"^\| (\d) \| (.*) \|$", grid, re.MULTILINE))
        for row in table_cells(experiments.folder, "selection"):
            if row["label"] != label or row["select"] != "best":
                continue
            cell = shown[row["num_steps"]].split(" | ")[SMALL.num_candidates.index(int(row["num_candidates"]))]
            numbers = [round(100 * float(row[name])) for name in ("success", "low", "high")]
            assert [int(number) for number in re.findall(r"\d+", cell)] == numbers
    for row in table(experiments.folder, "claims"):
        assert float(row["difference"]) == pytest.approx(float(row["success_a"]) - float(row["success_b"]))
        line = next(
            line
            for line in claims_of(text, row["label"])
            if row["text"][1:] in line and f"**{row['verdict']}**" in line
        )
        assert f"{row['a']} alone solved {row['only_a']}, {row['b']} alone {row['only_b']} of {row['episodes']}" in line
        numbers = [f"{100 * float(row[name]):+.1f}" for name in ("difference", "low", "high")]
        assert f"{numbers[0]} points [{numbers[1]}, {numbers[2]}]" in line
    best = table(experiments.folder, "policies")[0]
    headline = next(
        row
        for row in table_cells(experiments.folder, "report")
        if (row["label"], row["num_candidates"], row["num_steps"], row["select"])
        == ("seed 0", best["best_num_candidates"], best["best_num_steps"], "best")
    )
    assert f"- seed 0: **{100 * float(headline['success']):.1f} %" in text
    assert "fewer than the 200" in text


def claims_of(text: str, label: str) -> list[str]:
    return text.split("## Claims")[1].split(f"### {label}\n")[1].split("###")[0].splitlines()


def outcomes(
    policy: Path, version: str, task: str, jobs: list[Job], processes: int, lanes: int
) -> Iterator[list[EpisodeResult]]:
    """Known outcomes: several steps always succeed; one step succeeds on even episodes if N is 1."""
    yield [
        EpisodeResult(
            job=job,
            success=job.select != "worst" and (job.num_steps > 1 or (job.num_candidates == 1 and job.episode % 2 == 0)),
            steps=5,
            first_q=float(job.num_candidates),
            initial_state=(float(job.episode),),
            mean_q=0.0,
            discounted_return=-5.0,
            mean_return=-2.5,
            crashed=False,
            seconds=0.5,
        )
        for job in jobs
    ]


def outcomes_where(succeeds: Callable[[int, Job], bool]) -> Callable[..., Iterator[list[EpisodeResult]]]:
    """`outcomes` with the success that `succeeds` says, by the policy's training seed and the job."""

    def run(
        policy: Path, version: str, task: str, jobs: list[Job], processes: int, lanes: int
    ) -> Iterator[list[EpisodeResult]]:
        provenance = load_policy(policy).spec.provenance
        assert provenance is not None
        for results in outcomes(policy, version, task, jobs, processes, lanes):
            yield [replace(result, success=succeeds(provenance.seed, result.job)) for result in results]

    return run


def areas(folder: Path) -> list[float]:
    return [float(row["area"]) for row in table(folder, "compute")]


def test_the_page_says_which_policy_pays_best(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Seed 1 always succeeds, seed 0 only with eight steps: seed 1 is as good, for less compute."""

    run = outcomes_where(lambda seed, job: seed == 1 or job.num_steps > 1)
    experiments = TaskExperiments(tmp_path / "out" / TASK, SMALL, run=run)
    text = study(experiments, find_runs(runs), [], only=("grid",)).read_text()
    section = text.split("## Success over compute")[1].split("##")[0]
    # Of 1 to 4 x 8 = 32, five doublings: seed 0 fails for three of them.
    assert "| seed 0 | (1, 8) | 100.0 % [43.9, 100.0] | 0.400 |" in section
    assert "| seed 1 | (1, 1) | 100.0 % [43.9, 100.0] | 1.000 |" in section
    alone = "seed 1 alone solved 0, seed 0 alone 0 of 3 (p = 1.0000)"
    assert f"Of single actions, **seed 1** pays best: at their best cells, {alone}." in section
    assert areas(experiments.folder) == pytest.approx([0.4, 1.0])


def test_what_separates_from_the_best_can_not_pay_best(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Seed 0 succeeds always, with eight steps; seed 1 on even episodes, at once."""

    run = outcomes_where(lambda seed, job: job.episode % 2 == 0 if seed == 1 else job.num_steps > 1)
    many = replace(SMALL, selection=replace(SMALL.selection, episodes=20))
    experiments = TaskExperiments(tmp_path / "out" / TASK, many, run=run)
    text = study(experiments, find_runs(runs), [], only=("grid",)).read_text()
    assert areas(experiments.folder) == pytest.approx([0.4, 0.5])
    alone = "seed 0 alone solved 10, seed 1 alone 0 of 20 (p = 0.0020)"
    assert f"**seed 0** pays best: at their best cells, {alone}" in text


def test_verdicts_follow_from_known_outcomes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    experiments = TaskExperiments(
        tmp_path / "out" / TASK, replace(SMALL, report=replace(SMALL.report, episodes=20)), run=outcomes
    )
    page = study(experiments, find_runs(runs[:1]), [], only=("grid", "claims"))
    rows = {row["claim"]: row for row in table(experiments.folder, "claims")}
    # The best cell is (1, 8): every 8-step cell always wins, and it is the cheapest of them.
    policies = table(experiments.folder, "policies")
    assert (policies[0]["best_num_candidates"], policies[0]["best_num_steps"]) == ("1", "8")
    assert rows["more-steps"]["verdict"] == "holds"
    assert (rows["more-steps"]["only_a"], rows["more-steps"]["only_b"]) == ("10", "0")
    assert rows["more-candidates"]["verdict"] == "not separated"
    assert rows["best-random"]["verdict"] == "not separated"
    assert rows["best-worst"]["verdict"] == "holds"
    assert rows["equal-compute"]["verdict"] == "holds"
    text = page.read_text()
    failed = text.split("## What did not reproduce")[1].split("##")[0]
    assert failed.count("\n- ") == 1
    assert "4 candidates do better than 1 (best M): **not separated**" in failed
    missing = text.split("## Not run")[1]
    assert "seed 0, random and worst: 4 of 4 cells" in missing
    assert "seed 0, latency: 6 of 6 cells" in missing
    assert "seed 0, shortcut error" in missing
    assert "seed 0, learning curve at 10 updates: 2 of 2 cells ((1, 8), (2, 8))" in missing
    values = table(experiments.folder, "values")
    assert [row["separation"] for row in values] == ["", ""]  # all episodes succeeded
    assert [float(row["first_gap"]) for row in values] == [1 + 5, 4 + 5]


def test_an_interrupted_study_continues_where_it_stopped(
    runs: tuple[Path, Path], tmp_path: Path, in_process: InProcess
) -> None:
    def interrupted(*arguments: Any) -> Iterator[list[EpisodeResult]]:
        yield next(in_process(*arguments))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(experiments_of(tmp_path, interrupted), find_runs(runs[:1]), [], only=("grid",))
    done = list(in_process.jobs)
    assert len(done) == in_process.chunk
    rest = InProcess()
    study(experiments_of(tmp_path, rest), find_runs(runs[:1]), [], only=("grid",))
    assert len(rest.jobs) == 3 * 6 - len(done)
    assert not set(rest.jobs) & set(done)


def test_the_best_checkpoint_has_the_most_successes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    def early_wins(policy: Path, *arguments: Any) -> Iterator[list[EpisodeResult]]:
        for results in outcomes(policy, *arguments):
            yield [replace(result, success=policy.name == "policy-10.safetensors") for result in results]

    experiments = experiments_of(tmp_path, early_wins)
    page = study(experiments, find_runs(runs[:1]), [], checkpoint="best", only=("grid",))
    (run,) = find_runs(runs[:1])
    (subject,) = Plan.read(experiments.folder / "plan.json").subjects
    assert subject.version == run.checkpoints[0].version
    assert "the best of 2 checkpoints on selection seeds" in page.read_text()
    assert "over 6 cells and 2 checkpoints" in page.read_text()


@pytest.mark.slow
def test_a_page_is_extended_without_its_old_policy_files(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = runs
    study(experiments_of(tmp_path, outcomes), find_runs((first,)), [])
    for file in first.iterdir():
        file.unlink()
    experiments = experiments_of(tmp_path, outcomes)
    text = study(experiments, find_runs((second,)), [], add=True).read_text()
    assert "Everything planned was run." in text
    assert [row["label"] for row in table(experiments.folder, "policies")] == ["seed 0", "seed 1"]
    assert {row["label"] for row in table(experiments.folder, "curves")} == {"seed 0", "seed 1"}


@pytest.mark.slow
def test_a_policy_of_chunks_joins_a_page_from_before_there_were_any(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = runs
    experiments = experiments_of(tmp_path, outcomes)
    study(experiments, find_runs((first,)), [])
    for path in (experiments.folder / "policies").glob("*/policy.json"):
        facts = json.loads(path.read_text())
        del facts["action_horizon"]
        path.write_text(json.dumps(facts))
    for path in second.glob("*.safetensors"):
        policy = load_policy(path)
        chunks = random_policy(obs_dim=2, action_dim=2, action_horizon=4, provenance=policy.spec.provenance)
        save_policy(chunks, path)
    text = study(experiments_of(tmp_path, outcomes), find_runs((second,)), [], add=True).read_text()
    assert [row["action_horizon"] for row in table(experiments.folder, "policies")] == ["1", "4"]
    assert text.count("chunks of 4 actions, all executed") == 1


def test_a_policy_that_takes_committed_actions_is_measured_without_any(tmp_path: Path, in_process: InProcess) -> None:
    origin = Provenance(environment=TASK, updates=1)
    policy = random_policy(obs_dim=2, action_dim=2, action_horizon=4, prefix_max=2, provenance=origin)
    save_policy(policy, tmp_path / "chunks.safetensors")
    experiments = experiments_of(tmp_path, in_process)
    study(experiments, find_runs((tmp_path / "chunks.safetensors",)), [], only=("latency", "shortcut"))
    assert len(table(experiments.folder, "latency")) == len(SMALL.grid())
    assert len(table(experiments.folder, "shortcut")) == len(SMALL.num_steps)


@pytest.mark.slow
def test_quartile_cells_join_a_page_and_run_alone(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Best of 4 wins on even episodes, the upper quartile of 4 on all, one candidate on every fourth."""
    jobs: list[Job] = []

    def top_errs(policy: Path, version: str, task: str, wanted: list[Job], *rest: int) -> Iterator[list[EpisodeResult]]:
        jobs.extend(wanted)
        for results in outcomes(policy, version, task, wanted, *rest):
            yield [
                replace(
                    result,
                    success=result.job.select == "upper-quartile"
                    or result.job.episode % {1: 4, 2: 1, 4: 2, 8: 2}[result.job.num_candidates] == 0,
                )
                for result in results
            ]

    protocol = replace(SMALL, report=replace(SMALL.report, episodes=20))
    experiments = TaskExperiments(tmp_path / "out" / TASK, protocol, run=top_errs)
    before = study(experiments, find_runs(runs[:1]), [], only=("grid", "claims")).read_text()
    assert "upper quartile" not in before
    jobs.clear()
    # What the page has is kept by a command that does not name it.
    for cells in (((4, 8),), ()):
        further = TaskExperiments(experiments.folder, replace(protocol, quartile_cells=cells), run=top_errs)
        page = study(further, find_runs(runs[:1]), [], only=("grid", "claims"), add=True)
    # The other side of the second claim, (1, 8), was run for "more steps".
    assert [(job.num_candidates, job.num_steps, job.select, job.episode) for job in jobs] == [
        (4, 8, rule, episode) for rule in ("upper-quartile", "best") for episode in protocol.report.range
    ]
    rows = {row["claim"]: row for row in table(experiments.folder, "claims")}
    counts = ("both", "only_a", "only_b", "neither")
    assert [rows["quartile-best-4-8"][name] for name in counts] == ["10", "10", "0", "0"]
    assert [rows["quartile-one-4-8"][name] for name in counts] == ["5", "15", "0", "0"]
    part = page.read_text().split("A choice below the top, 20 report episodes")[1].split("\n#")[0]
    line = next(line for line in part.splitlines() if line.startswith("| seed 0 |"))
    assert [cell.split(" [")[0] for cell in line.strip("| ").split(" | ")] == [
        "seed 0",
        "(4, 8)",
        "50.0 %",
        "100.0 %",
        "25.0 %",
        "100.0 %",
    ]
    assert line.endswith("at (2, 1) |")
    assert (
        "- seed 0, (4, 8): **better than the best**, better than one candidate. The upper quartile alone solved 10, "
        "the best alone 0 of 20 paired episodes." in part
    )
    assert "What did not reproduce" in page.read_text().split("upper quartile")[-1]  # the claim is not the paper's


def test_quartile_cells_that_were_not_run_are_listed(runs: tuple[Path, Path], tmp_path: Path) -> None:
    experiments = TaskExperiments(tmp_path / "out" / TASK, replace(SMALL, quartile_cells=((4, 8),)), run=outcomes)
    text = study(experiments, find_runs(runs[:1]), [], only=("grid",)).read_text()
    assert "(4, 8) upper-quartile" in text.split("## Not run")[1]
    assert "| seed 0 | (4, 8) | not run | not run | not run | not run at (1, 8) |" in text
    assert "**better than the best**" not in text


def test_another_protocol_is_refused_before_anything_runs(
    runs: tuple[Path, Path], tmp_path: Path, in_process: InProcess
) -> None:
    study(experiments_of(tmp_path, outcomes), find_runs(runs[:1]), [])
    plan = (tmp_path / "out" / TASK / "plan.json").read_text()
    other = TaskExperiments(tmp_path / "out" / TASK, replace(SMALL, num_steps=(1, 4)), run=in_process)
    with pytest.raises(ResultsError, match="num_steps"):
        study(other, find_runs(runs[1:]), [], checkpoint="best", add=True)
    assert in_process.jobs == []
    assert (tmp_path / "out" / TASK / "plan.json").read_text() == plan


def test_a_single_file_has_no_learning_curve(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (source,) = find_runs((runs[0] / "policy-10.safetensors",))
    text = study(experiments_of(tmp_path, outcomes), [source], [], only=("grid", "claims", "verifier")).read_text()
    assert "## Learning curves\n\nNot run." in text
    assert "learning curves: no run folder with kept policies was named" in text


def test_there_must_be_something_to_measure_or_render(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"plan\.json can't be read"):
        render(tmp_path)
    with pytest.raises(ResultsError, match="not both"):
        ResultsConfig()
    with pytest.raises(ResultsError, match="not both"):
        ResultsConfig(policies=(tmp_path,), render=(tmp_path,))


def test_more_steps_than_the_policy_has_is_an_error(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="lower --num-steps"):
        run(ResultsConfig(policies=runs, num_steps=(1, 16), out=tmp_path / "out"))
    with pytest.raises(ResultsError, match="--quartile-cells"):
        run(ResultsConfig(policies=runs, quartile_cells=((4, 16),), out=tmp_path / "out"))


def test_contradictory_measurements_are_not_rendered(runs: tuple[Path, Path], tmp_path: Path) -> None:
    experiments = experiments_of(tmp_path, outcomes)
    study(experiments, find_runs(runs[:1]), [], only=("grid",))
    path = record_folder(experiments.folder, find_runs(runs[:1])[0].last.version) / "episodes.csv"
    lines = path.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[COLUMNS.index("initial_state")] = "ffff"
    path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    with pytest.raises(RecordError, match="began in another state"):
        render(experiments.folder)


@pytest.mark.slow
def test_the_command_with_worker_processes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Real workers, real horizon, one page; then nothing is left to do."""
    config = ResultsConfig(
        policies=runs[:1],
        out=tmp_path / "out",
        num_candidates=(1, 2),
        num_steps=(1, 8),
        many_candidates=2,
        verifier_candidates=(2,),
        curve_cells=((1, 8),),
        episodes=2,
        report_episodes=2,
        processes=2,
        lanes=4,
    )
    (page,) = run(config)
    text = page.read_text()
    assert "Everything planned was run." in text
    assert run(config) == [page]
    assert page.read_text() == text
