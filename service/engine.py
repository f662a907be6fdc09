"""An engine: one policy on one device. NumPy in, NumPy out; all calls come from the scheduler's one worker thread.

works -> rows of one SampleBatch -> Backend.sample_and_score -> an outcome for each work
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kernels.backend import Backend, DeviceFailure, SampleBatch, SampleResult, SelfChecking
from kernels.threads import limit_torch_threads
from policy import Policy
from service.errors import NonfiniteOutput
from service.metrics import Metrics

log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Work:
    """One request, B observations that are answered together.

    Attributes:
        observation: (B, obs_dim) float32, finite, in the policy's dimensions.
        num_candidates, num_steps: N and M, granted.
        seeds: (B,) uint64.
        temperature: scales the noise.
        return_candidates: also return all N candidates.
    """

    observation: Float32
    num_candidates: int
    num_steps: int
    seeds: NDArray[np.uint64]
    temperature: float = 1.0
    return_candidates: bool = False

    @property
    def rows(self) -> int:
        """Network rows: B * N."""
        return len(self.observation) * self.num_candidates


@dataclass(frozen=True)
class Outcome:
    """What became of a `Work`.

    Attributes:
        action: (B, action_dim), environment units.
        q, q_std: (B,), the action's value and its spread over the ensemble.
        observation_z_max: (B,), largest |z| under the checkpoint's statistics.
        engine: what computed it.
        candidates, candidate_q: (B, N, action_dim) in environment units and (B, N), when asked for.
    """

    action: Float32
    q: Float32
    q_std: Float32
    observation_z_max: Float32
    engine: str
    candidates: Float32 | None = None
    candidate_q: Float32 | None = None


class Engine:
    """Runs batches of works.

    Args:
        policy: the policy that `backend` samples.
        backend: from `kernels.backend.create_backend`.
        metrics: where batches are counted.
        threads: threads of torch's operators, for backends that use them.
        max_batch_rows: network rows of one call of the backend. It bounds memory: one work of many observations is
            computed in several calls.
        on_device_failure: told, in the worker thread, when the device fails under a batch.
    """

    def __init__(
        self,
        policy: Policy,
        backend: Backend,
        metrics: Metrics,
        *,
        threads: int,
        max_batch_rows: int,
        on_device_failure: Callable[[DeviceFailure], None] = lambda error: None,
    ) -> None:
        self.spec = policy.spec
        self._backend = backend
        self._metrics = metrics
        self._threads = threads
        self._max_batch_rows = max_batch_rows
        self._on_device_failure = on_device_failure
        self._mean = policy.observation_mean.cpu().float().numpy()
        self._std = policy.observation_std.cpu().float().numpy()

    @property
    def name(self) -> str:
        """What replies call `engine`, e.g. "reference/fp32/cpu"."""
        return self._backend.engine

    def warm_up(self) -> None:
        """Run representative shapes, so that no client pays for a first time.

        Raises:
            Whatever the backend raises, BackendMismatch if it finds itself wrong; NonfiniteOutput if the policy gives
            NaN for its own mean observation.
        """
        limit_torch_threads(self._threads)
        started = time.perf_counter()
        for piece in self.rehearsal():
            piece()
        log.info("%s warmed up in %.2f s with %d threads", self.name, time.perf_counter() - started, self._threads)

    def rehearsal(self) -> list[Callable[[], None]]:
        """`warm_up` in pieces, each as long as a batch at most, so that other engines' batches can go between them."""
        default = self.spec.default_budget
        budgets = {(1, 1), (default.num_candidates, default.num_steps), (32, self.spec.denoise_timesteps)}
        budgets |= {(cell.num_candidates, cell.num_steps) for cell in self.spec.frontier}
        works = [
            Work(np.tile(self._mean, (rows, 1)), n, m, np.arange(rows, dtype=np.uint64))
            for rows in (1, 4, 16)
            for n, m in sorted(budgets)
            if rows * n <= self._max_batch_rows
        ]
        pieces: list[Callable[[], None]] = [self._backend.check] if isinstance(self._backend, SelfChecking) else []
        batches = [*([work] for work in works), *_batches(works, self._max_batch_rows)]  # each alone, then mixed
        return [*pieces, *(partial(self._rehearse, batch) for batch in batches)]

    def _rehearse(self, works: list[Work]) -> None:
        for outcome in self._compute(works):
            if isinstance(outcome, NonfiniteOutput):
                raise outcome

    def run(self, works: list[Work]) -> Sequence[Outcome | NonfiniteOutput]:
        """Compute a batch and count it.

        Raises:
            DeviceFailure: `on_device_failure` has heard of it.
        """
        started = time.perf_counter()
        try:
            outcomes = self._compute(works)
        except DeviceFailure as error:
            self._on_device_failure(error)
            raise
        rows = [len(work.observation) * work.num_candidates for work in works]
        self._metrics.count_batch(
            requests=len(works),
            rows=sum(rows),
            actor_evaluations=sum(n * work.num_steps for n, work in zip(rows, works, strict=True)),
            critic_evaluations=sum(rows) * self.spec.ensemble_size,
            seconds=time.perf_counter() - started,
        )
        return outcomes

    def _compute(self, works: list[Work]) -> list[Outcome | NonfiniteOutput]:
        batch = _batch_of(works)
        results = [self._backend.sample_and_score(part) for part in _slices(batch, self._max_batch_rows)]
        result = results[0] if len(results) == 1 else _joined(results)
        z_max = np.abs((batch.observation - self._mean) / self._std).max(axis=1)
        starts = np.cumsum([0, *(len(work.observation) for work in works)])
        return [
            self._outcome(work, result, slice(start, start + len(work.observation)), z_max)
            for work, start in zip(works, starts.tolist(), strict=False)
        ]

    def _outcome(self, work: Work, result: SampleResult, rows: slice, z_max: Float32) -> Outcome | NonfiniteOutput:
        if result.nonfinite[rows].any():
            row = int(np.argmax(result.nonfinite[rows]))
            self._metrics.nonfinite.inc()
            return NonfiniteOutput(f"the policy gave NaN or infinity for observation row {row}; no action was chosen")
        candidates = candidate_q = None
        if work.return_candidates:
            assert result.candidates is not None
            assert result.candidate_q is not None
            candidates = self.spec.action_to_environment(np.stack(result.candidates[rows]))
            candidate_q = np.stack(result.candidate_q[rows])
        return Outcome(
            action=self.spec.action_to_environment(result.action[rows]),
            q=result.q[rows],
            q_std=result.q_std[rows],
            observation_z_max=z_max[rows],
            engine=self._backend.engine,
            candidates=candidates,
            candidate_q=candidate_q,
        )


def _batches(works: list[Work], max_rows: int) -> list[list[Work]]:
    """`works` in batches of at most `max_rows` rows; each of them fits into one."""
    batches: list[list[Work]] = [[]]
    for work in works:
        if sum(other.rows for other in batches[-1]) + work.rows > max_rows:
            batches.append([])
        batches[-1].append(work)
    return batches


def _batch_of(works: list[Work]) -> SampleBatch:
    rows = [len(work.observation) for work in works]
    return SampleBatch(
        observation=np.concatenate([work.observation for work in works]),
        num_candidates=np.repeat(np.array([work.num_candidates for work in works], dtype=np.int32), rows),
        num_steps=np.repeat(np.array([work.num_steps for work in works], dtype=np.int32), rows),
        seed=np.concatenate([work.seeds for work in works]),
        temperature=np.repeat(np.array([work.temperature for work in works], dtype=np.float32), rows),
        first_candidate=np.zeros(sum(rows), dtype=np.int32),
        return_candidates=any(work.return_candidates for work in works),
    )


def _slices(batch: SampleBatch, max_rows: int) -> list[SampleBatch]:
    """`batch` cut between observations, so that no part has more than `max_rows` rows (or it has one observation)."""
    if int(batch.num_candidates.sum()) <= max_rows:
        return [batch]
    parts, start, rows = [], 0, 0
    for index, count in enumerate(batch.num_candidates.tolist()):
        if rows + count > max_rows and index > start:
            parts.append(_part(batch, slice(start, index)))
            start, rows = index, 0
        rows += count
    return [*parts, _part(batch, slice(start, len(batch)))]


def _part(batch: SampleBatch, rows: slice) -> SampleBatch:
    return SampleBatch(
        observation=batch.observation[rows],
        num_candidates=batch.num_candidates[rows],
        num_steps=batch.num_steps[rows],
        seed=batch.seed[rows],
        temperature=batch.temperature[rows],
        first_candidate=batch.first_candidate[rows],
        return_candidates=batch.return_candidates,
    )


def _joined(results: list[SampleResult]) -> SampleResult:
    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(result, name) for result in results])

    def lists(name: str) -> list[Float32] | None:
        parts = [getattr(result, name) for result in results]
        return None if parts[0] is None else [array for part in parts for array in part]

    names = ("action", "q", "q_std", "index", "q_first", "q_sum", "q_sumsq", "nonfinite")
    return SampleResult(
        **{name: both(name) for name in names}, candidates=lists("candidates"), candidate_q=lists("candidate_q")
    )
