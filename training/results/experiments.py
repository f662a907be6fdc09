"""`TaskExperiments`: runs what has not been measured yet; what a record has is not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from sorl_client.episodes import make_env, reset
from tqdm import tqdm

from kernels.backend import Backend
from kernels.choice import create_backend
from kernels.commitment import network_input
from kernels.machine import machine
from policy import CheckpointError, Policy, load_policy
from training.episodes import EpisodeResult, Job
from training.evaluation import run_jobs
from training.results.errors import ResultsError
from training.results.latency import measure_latency
from training.results.plan import Curve, Subject
from training.results.protocol import Cell, Protocol, Seeds
from training.results.record import Record, best_cell, record_folder
from training.results.runs import Checkpoint, Run
from training.results.shortcut import measure_shortcut

Experiment = Literal["grid", "claims", "verifier", "latency", "shortcut", "curves"]
RunJobs = Callable[[Path, str, str, list[Job], int, int], Iterator[list[EpisodeResult]]]


class TaskExperiments:
    """The experiments of one task. Their measurements are kept in `folder`.

    Args:
        folder: the task's folder of results.
        protocol: what to measure.
        processes, lanes: see `run_jobs`.
        run: runs episodes; `run_jobs`, or a substitute in tests.
    """

    def __init__(
        self, folder: Path, protocol: Protocol, processes: int = 0, lanes: int = 8, run: RunJobs = run_jobs
    ) -> None:
        self.folder = folder
        self.protocol = protocol
        self._processes = processes
        self._lanes = lanes
        self._run = run

    def record(self, checkpoint: Checkpoint) -> Record:
        """The record of a checkpoint, created if there is none."""
        facts = {**checkpoint.facts, "engine": _backend(_load(checkpoint)).engine, "machine": machine()}
        return Record.open_or_create(record_folder(self.folder, checkpoint.version), facts)

    def measure(self, checkpoint: Checkpoint, label: str, only: tuple[Experiment, ...]) -> None:
        """Run the experiments of `only`, except learning curves, on one policy."""
        record, protocol = self.record(checkpoint), self.protocol
        if "grid" in only:
            self._episodes(checkpoint, record, protocol.grid(), protocol.selection, f"{label}: grid")
        best = best_cell(record, protocol)
        if best and "claims" in only:
            self._episodes(checkpoint, record, protocol.reported(best), protocol.report, f"{label}: claims")
        if best and "verifier" in only:
            self._episodes(checkpoint, record, protocol.verifier(best), protocol.selection, f"{label}: verifier")
        if "latency" in only:
            self._latency(checkpoint, record, label)
        if "shortcut" in only and not record.has_shortcut(protocol.num_steps):
            policy = _load(checkpoint)
            rows = measure_shortcut(
                _backend(policy), policy.spec, checkpoint.task, protocol.selection, protocol.num_steps, label
            )
            record.write_table("shortcut", rows)

    def curve(self, run: Run) -> Curve:
        """Run the episodes of a run's learning curve. Returns the curve."""
        for checkpoint in run.checkpoints:
            name = f"{run.label}: {checkpoint.updates:,} updates"
            record = self.record(checkpoint)
            self._episodes(checkpoint, record, self.protocol.curve(), self.protocol.selection, name)
        return curve_of(run)

    def best_checkpoint(self, run: Run) -> Checkpoint:
        """The checkpoint of highest success over the curve's cells, on selection seeds; among equals, the latest."""

        def successes(checkpoint: Checkpoint) -> int:
            cells = [self.record(checkpoint).rows(cell, self.protocol.selection) for cell in self.protocol.curve()]
            return sum(row.success for rows in cells for row in rows or ())

        return max(reversed(run.checkpoints), key=successes)

    def _latency(self, checkpoint: Checkpoint, record: Record, label: str) -> None:
        measured = record.table("latency")
        have = {(int(row["num_candidates"]), int(row["num_steps"])) for row in measured}
        cells = [cell for cell in self.protocol.grid() if (cell.num_candidates, cell.num_steps) not in have]
        if not cells:
            return
        env = make_env(checkpoint.task)
        observation = reset(env, self.protocol.selection.first)
        env.close()
        policy = _load(checkpoint)
        inputs = network_input(policy.spec, observation[None])
        record.write_table("latency", [*measured, *measure_latency(_backend(policy), inputs, cells, label)])

    def _episodes(self, checkpoint: Checkpoint, record: Record, cells: list[Cell], seeds: Seeds, name: str) -> None:
        jobs = [job for cell in cells for job in record.missing(cell, seeds)]
        if not jobs:
            return
        total = len(cells) * seeds.episodes
        with tqdm(total=total, initial=total - len(jobs), unit="episode", desc=name) as bar:
            for results in self._run(
                checkpoint.path, checkpoint.version, checkpoint.task, jobs, self._processes, self._lanes
            ):
                record.add(results)
                bar.update(len(results))


def subject_of(run: Run, checkpoint: Checkpoint, chosen: bool) -> Subject:
    """The plan's entry for a checkpoint; `chosen` if it was selected among the run's checkpoints."""
    return Subject(run.label, checkpoint.version, len(run.checkpoints) if chosen else 1)


def curve_of(run: Run) -> Curve:
    """The plan's entry for a run's learning curve."""
    return Curve(run.label, tuple((checkpoint.updates, checkpoint.version) for checkpoint in run.checkpoints))


def require_steps(run: Run, protocol: Protocol) -> None:
    """Raise ResultsError if the protocol needs more steps than a policy's finest grid has."""
    most = max([*protocol.num_steps, *(m for _, m in (*protocol.curve_cells, *protocol.quartile_cells))])
    for checkpoint in run.checkpoints:
        if most > checkpoint.facts["denoise_timesteps"]:
            raise ResultsError(
                f"{checkpoint.path} has {checkpoint.facts['denoise_timesteps']} steps (denoise_timesteps), and the "
                f"experiments ask for {most}; lower --num-steps, --curve-cells and --quartile-cells"
            )


def _backend(policy: Policy) -> Backend:
    """The backend that workers evaluate with."""
    return create_backend(policy, "auto", "cpu", threads=1)


def _load(checkpoint: Checkpoint) -> Policy:
    policy = load_policy(checkpoint.path)
    if policy.version != checkpoint.version:
        raise CheckpointError(f"{checkpoint.path} was replaced meanwhile: run the same command again")
    return policy
