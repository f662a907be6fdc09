"""`sorl-replay`: compute recorded requests again, and compare the actions.

Noise is a pure function of the recorded seeds, so a recording can be checked on any machine. With equal model version
and engine the action is equal to the bit if the engine's arithmetic does not depend on what else is in a batch, and
equal within rounding otherwise. Two candidates may have the same value within rounding, and the other one may then win:
such a row is reported as a tie.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kernels.backend import Backend, BackendUnavailable, SampleBatch, SampleResult
from kernels.choice import create_backend, engine_choice
from kernels.commands import command
from kernels.commitment import choose, network_input
from kernels.threads import limit_torch_threads, serving_threads
from policy import CheckpointError, Policy, PolicyFile, PolicySpec, policy_files
from service.recording.format import Record, Recording, RecordingError, read_recording


@dataclass
class Comparison:
    """The result of comparing one recording.

    Attributes:
        rows: observations compared.
        bitwise: rows whose action is equal to the bit.
        ties: rows where another candidate of equal value won.
        largest: largest difference of an action, in units of half its range; ties do not count.
        mismatches: one line for each row that differs.
    """

    rows: int = 0
    bitwise: int = 0
    ties: int = 0
    largest: float = 0.0
    mismatches: list[str] = field(default_factory=list)


class Replayer:
    """Compares records with one policy's backend; `tolerance` is in units of half an action's range."""

    def __init__(self, spec: PolicySpec, backend: Backend, tolerance: float) -> None:
        self._spec = spec
        self._backend = backend
        self._tolerance = tolerance
        self._half_range = (np.array(spec.action_high) - np.array(spec.action_low)) / 2

    def compare(self, record: Record, into: Comparison) -> None:
        """Compute `record` again, alone, and add the result to `into`."""
        request = record.request
        result = self._sample(record, slice(None), request.commitment is not None)
        chosen, values = result.action, result.q
        if request.commitment is not None:
            chosen, values, _ = choose(result, request.commitment)
        action = self._spec.action_to_environment(chosen)
        differences = self._difference(action, record.action)
        for row, difference in enumerate(differences.tolist()):
            into.rows += 1
            into.bitwise += bool(np.array_equal(action[row], record.action[row]))
            value_as_recorded = abs(float(values[row] - record.q[row])) <= _slack(record, row)
            if value_as_recorded and difference > self._tolerance and self._is_tie(record, row):
                into.ties += 1
                continue
            into.largest = max(into.largest, difference)
            if not (value_as_recorded and difference <= self._tolerance):
                into.mismatches.append(
                    f"request {record.request_id}, row {row}: action off by {difference:.3g} of half its range, "
                    f"q recorded {record.q[row]:.6g}, recomputed {values[row]:.6g}"
                )

    def _sample(self, record: Record, rows: slice, return_candidates: bool = False) -> SampleResult:
        request = record.request
        committed = None if request.commitment is None else request.commitment.actions
        return self._backend.sample_and_score(
            SampleBatch.of(
                network_input(self._spec, request.observation, committed)[rows],
                request.num_candidates,
                request.num_steps,
                request.seeds[rows],
                request.temperature,
                return_candidates=return_candidates,
            )
        )

    def _difference(self, action: np.ndarray, recorded: np.ndarray) -> np.ndarray:
        """(..., *action_shape) twice -> (...): the largest difference of a component."""
        axes = tuple(range(-len(self._spec.action_shape), 0))
        largest: np.ndarray = np.max(np.abs(action.astype(np.float64) - recorded) / self._half_range, axis=axes)
        return largest

    def _is_tie(self, record: Record, row: int) -> bool:
        """Is the recorded action another candidate, of the winner's value within rounding?"""
        result = self._sample(record, slice(row, row + 1), return_candidates=True)
        assert result.candidates is not None
        assert result.candidate_q is not None
        candidates = self._spec.action_to_environment(result.candidates[0])
        same = self._difference(candidates, record.action[row]) <= self._tolerance
        best = record.q[row] if record.request.commitment is not None else result.q[0]
        equal = result.candidate_q[0] >= best - _slack(record, row)
        return bool((same & equal).any())


def _slack(record: Record, row: int) -> float:
    """How much values may differ: float32 rounding in the critic, relative to the value."""
    return 1e-4 * max(1.0, abs(float(record.q[row])))


def load_policies(recording: Recording, path: Path, models: list[Path]) -> dict[str, Policy]:
    """The policies that `recording` needs, by version: from `models`, or from where its header says they were served.

    Args:
        models: checkpoints, and folders of them.

    Raises:
        CheckpointError: a checkpoint is missing or damaged.
        RecordingError: a record was answered by a version that is not among them, or can't have been answered by it.
    """
    needed = {record.model_version for record in recording.records}
    policies: dict[str, Policy] = {}
    found = []
    for source in models or [Path(str(recording.header.get("checkpoint")))]:
        for checkpoint in policy_files(source):
            file = PolicyFile.read(checkpoint)
            if file.version in needed:
                policies[file.version] = file.policy()
            found.append(f"{checkpoint} is version {file.version:.12}")
    for record in recording.records:
        answered_by = policies.get(record.model_version)
        if answered_by is None:
            raise RecordingError(
                f"{path}: request {record.request_id} was answered by {record.model!r} version "
                f"{record.model_version:.12}, and {', '.join(found)}: name the right checkpoint with --model"
            )
        spec = answered_by.spec
        shapes = record.request.observation.shape[1:], record.action.shape[1:]
        commitment = record.request.commitment
        if commitment is not None and not (
            0 < commitment.actions.shape[1] < spec.action_horizon and commitment.actions.shape[2] == spec.action_dim
        ):
            raise RecordingError(f"{path}: request {record.request_id} is damaged: it does not fit {spec.name!r}")
        if shapes != ((spec.obs_dim,), spec.action_shape) or record.request.num_steps > spec.denoise_timesteps:
            raise RecordingError(f"{path}: request {record.request_id} is damaged: it does not fit {spec.name!r}")
    return policies


MakeBackend = Callable[[Policy, str], Backend]
"""(policy, the engine that answered) -> what recomputes."""


def replay(path: Path, models: list[Path], tolerance: float, make_backend: MakeBackend) -> bool:
    """Check one recording and print the result. True: all of it agrees.

    Raises:
        RecordingError, CheckpointError, BackendUnavailable: it can't be checked.
    """
    recording = read_recording(path)
    if recording.truncated:
        print(f"{path}: note: the last line was cut (a crash while writing) and is left out")
    policies = load_policies(recording, path, models)
    answered = {(record.model_version, record.engine) for record in recording.records}
    backends = {(version, engine): make_backend(policies[version], engine) for version, engine in sorted(answered)}
    replayers = {key: Replayer(policies[key[0]].spec, backend, tolerance) for key, backend in backends.items()}
    comparison = Comparison()
    for record in recording.records:
        replayers[record.model_version, record.engine].compare(record, comparison)
    for line in comparison.mismatches[:10]:
        print(f"{path}: {line}")
    recorded_on = ", ".join(sorted({record.engine for record in recording.records})) or "nothing"
    engines = ", ".join(sorted({backend.engine for backend in backends.values()}))
    print(
        f"{path}: {len(recording.records)} requests, {comparison.rows} rows, recorded on {recorded_on}, recomputed on "
        f"{engines}: {comparison.bitwise} equal to the bit, {comparison.ties} ties, largest difference "
        f"{comparison.largest:.3g}, {len(comparison.mismatches)} mismatches (tolerance {tolerance:g})"
    )
    return not comparison.mismatches


@command("sorl-replay")
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all agree, 1 some action differs, 2 something can't be checked."""
    parser = argparse.ArgumentParser(
        prog="sorl-replay", description="Compute the flight recorder's requests again and compare the actions."
    )
    parser.add_argument("file", nargs="+", type=Path, help="recording, as found in SORL_RECORD_DIR")
    parser.add_argument(
        "--model", nargs="+", type=Path, default=[], help="checkpoints, or folders of them; default: the header's"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-5, help="in units of half the action's range (default: %(default)g)"
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "triton", "cpu", "reference"),
        default="auto",
        help="what recomputes; auto is what answered, where it can run (default: auto)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    options = parser.parse_args(arguments)
    limit_torch_threads(serving_threads())

    def make_backend(policy: Policy, engine: str) -> Backend:
        if options.backend != "auto":
            return create_backend(policy, options.backend, options.device)
        choice, precision = engine_choice(engine)
        try:
            return create_backend(policy, choice, options.device, precision)
        except BackendUnavailable:  # recorded on other hardware: compare within the tolerance
            return create_backend(policy, "auto", options.device)

    status = 0
    for path in options.file:
        try:
            agrees = replay(path, options.model, options.tolerance, make_backend)
            status = max(status, 0 if agrees else 1)
        except (RecordingError, CheckpointError, BackendUnavailable) as error:
            print(f"sorl-replay: error: {error}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
