"""An engine: one policy on one device. NumPy in, NumPy out. All calls come from the scheduler's worker thread.

parts of requests -> rows of one SampleBatch -> Backend.sample_and_score -> a result for each part
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from kernels.backend import Backend, DeviceFailure, MadeInSteps, SampleResult, SelfChecking
from kernels.commitment import choose
from policy import Policy
from service.budget import TERMS, CostModel
from service.engine.calibration import Calibration
from service.engine.device import Device
from service.engine.partial_result import PartialResult, batch_of
from service.errors import NonfiniteOutput, ObservationTooLarge
from service.sample import Float32, RequestPart, SampleReply, SampleRequest
from service.timing import BatchSize, CostEstimate

log = logging.getLogger(__name__)


NoAction = NonfiniteOutput | ObservationTooLarge
"""The policy gave NaN or infinity."""

_LARGE = 1e6  # above, an observation can be the cause of that; sorl-train warns of such data
_FLOAT32_MAX = np.finfo(np.float32).max


class BatchReport(NamedTuple):
    """A batch that has been computed.

    Attributes:
        size: its sums.
        requests: how many requests had rows in it.
        nonfinite: how many of them failed as the policy gave NaN or infinity.
        seconds: measured.
    """

    size: BatchSize
    requests: int
    nonfinite: int
    seconds: float


class Engine:
    """Computes batches of requests.

    Args:
        policy: the policy that `backend` samples.
        backend: from `kernels.choice.create_backend`.
        max_batch_rows: network rows of the largest batch that will come.
        max_batch_seconds: predicted time of the longest one.
        device: the device it runs on, shared with the server's other engines.
        on_batch: called after each batch, in the worker thread.

    Attributes:
        cost: predicts its batches; zero until warm-up has ended.
        observation_mean, observation_std: (obs_dim,), of the training data.
    """

    def __init__(
        self,
        policy: Policy,
        backend: Backend,
        *,
        max_batch_rows: int,
        max_batch_seconds: float,
        device: Device,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self.spec = policy.spec
        self.cost = CostModel()
        self._backend = backend
        self._on_batch = on_batch
        self._max_batch_rows = max_batch_rows
        self._max_batch_seconds = max_batch_seconds
        self._device = device
        self.observation_mean, self.observation_std = (
            statistic.cpu().float().numpy()[: self.spec.obs_dim]
            for statistic in (policy.observation_mean, policy.observation_std)
        )

    @property
    def name(self) -> str:
        """What replies call `engine`, e.g. "reference/fp32/cpu"."""
        return self._backend.engine

    def estimate(self, request: SampleRequest) -> CostEstimate:
        """Predicted cost of `request`. From any thread."""
        return self.cost.estimate(len(request.observation), request.num_candidates, request.num_steps)

    def warm_up_steps(self) -> Iterator[Callable[[], None]]:
        """The calls that warm it up, in order, none longer than a batch, so that others' batches can run between them.
        Each must have been called before the next one is asked for.

        They finish the making of the backend and compare it with the reference where it asks for that, fit the cost
        model, and run representative shapes, so that no client pays for first times. Shapes of more than
        `max_batch_seconds` are left out: no batch is as long.

        A call raises whatever the backend raises, BackendMismatch if the backend is found wrong, and NonfiniteOutput
        if the policy gives NaN for its own mean observation.
        """
        default = self.spec.default_budget
        budgets = {(1, 1), (default.num_candidates, default.num_steps), (32, self.spec.denoise_timesteps)}
        budgets |= {(cell.num_candidates, cell.num_steps) for cell in self.spec.frontier}
        shapes = [(b, n, m) for b in (1, 4, 16) for n, m in sorted(budgets) if b * n <= self._max_batch_rows]
        requests = [self._mean_request(*shape) for shape in shapes]
        calibration = Calibration(
            self._run_mean, self.spec.denoise_timesteps, self._max_batch_rows, self._max_batch_seconds
        )
        if isinstance(self._backend, MadeInSteps):
            yield from self._backend.making_steps()
        if isinstance(self._backend, SelfChecking):
            yield self._backend.check
        yield partial(self._check_finite, [self._mean_request(1, 1, 1)])
        yield from calibration.steps()
        yield partial(self._fit, calibration)
        for batch in [*([request] for request in requests), requests]:
            if fitting := self._fitting(batch):
                yield partial(self._check_finite, fitting)

    def run(self, parts: list[RequestPart]) -> Sequence[SampleReply | PartialResult | NoAction]:
        """Compute a batch and report it. See `service.scheduling.Engine.run`.

        Raises:
            DeviceFailure: the device failed, under this batch or an earlier one of any engine.
        """
        self._device.check()
        started = time.perf_counter()
        try:
            results = self._compute(parts)
        except DeviceFailure as error:
            self._device.fail(error)
            raise
        seconds = time.perf_counter() - started
        rows = [part.stop - part.start for part in parts]
        size = BatchSize(
            observations=sum(len(part.request.observation) for part in parts),
            actor_rows=sum(count * part.request.num_steps for count, part in zip(rows, parts, strict=True)),
            critic_rows=sum(rows),
        )
        self.cost.observe(size, seconds)
        nonfinite = sum(isinstance(result, NonfiniteOutput) for result in results)
        self._on_batch(BatchReport(size, len(parts), nonfinite, seconds))
        return results

    def _fitting(self, requests: list[SampleRequest]) -> list[SampleRequest]:
        """Those of `requests` that make a batch."""
        rows, seconds, batch = 0, 0.0, []
        for request in requests:
            estimate = self.estimate(request)
            more_rows, more_seconds = rows + request.rows, seconds + estimate.seconds()
            if more_rows <= self._max_batch_rows and more_seconds + estimate.per_call <= self._max_batch_seconds:
                rows, seconds = more_rows, more_seconds
                batch.append(request)
        return batch

    def _check_finite(self, requests: list[SampleRequest]) -> None:
        for result in self._compute([RequestPart.whole(request) for request in requests]):
            if isinstance(result, NoAction):
                raise result

    def _fit(self, calibration: Calibration) -> None:
        self.cost.fit(calibration.measured)
        terms = ", ".join(f"{self.cost.coefficient(term) * 1e6:.3g} us a {term}" for term in TERMS)
        log.info("%s: cost model: %s, relative error %.2f", self.name, terms, self.cost.relative_error)

    def _compute(self, parts: list[RequestPart]) -> list[SampleReply | PartialResult | NoAction]:
        batch, present = batch_of(self.spec, parts)
        result = self._backend.sample_and_score(batch)
        converted = self._convert(result, batch.observation)
        results: list[SampleReply | PartialResult | NoAction] = []
        start = 0
        for part, observations in zip(parts, present, strict=True):
            request = part.request
            rows = slice(start, start + len(observations))
            start = rows.stop
            if part.start == 0 and part.stop == request.rows:
                results.append(self._reply(request, converted, rows))
                continue
            best = part.partial
            if not isinstance(best, PartialResult):  # None: this is the first part
                best = PartialResult(request, self.spec.chunk_dim)
            best.add(part, observations, result, rows)
            if part.stop == request.rows:
                total = self._convert(best.result(), request.observation)
                results.append(self._reply(request, total, slice(0, len(request.observation))))
            else:
                results.append(best)
        return results

    def _convert(self, result: SampleResult, observation: Float32) -> _Converted:
        """Once a batch: once for each of its requests would hold the interpreter's lock for 30 us each."""
        raw = observation[:, : self.spec.obs_dim]  # behind it is a prefix
        with np.errstate(over="ignore"):  # 3e38 in units of a small deviation
            z = np.abs((raw - self.observation_mean) / self.observation_std).max(axis=1)
        return _Converted(
            result=result,
            observation=raw,
            action=self.spec.action_to_environment(result.action),
            observation_z_max=np.minimum(z, _FLOAT32_MAX),
            nonfinite=bool(result.nonfinite.any()),
        )

    def _reply(self, request: SampleRequest, converted: _Converted, rows: slice) -> SampleReply | NoAction:
        result = converted.result
        if converted.nonfinite and result.nonfinite[rows].any():
            row = int(np.argmax(result.nonfinite[rows]))
            return _nonfinite(row, converted.observation[rows][row])
        if request.commitment is not None:
            chosen, q, q_std = choose(result, request.commitment, rows)
            action = self.spec.action_to_environment(chosen)
        else:
            action, q, q_std = converted.action[rows], result.q[rows], result.q_std[rows]
        candidates = candidate_q = None
        if request.return_candidates:
            assert result.candidates is not None
            assert result.candidate_q is not None
            candidates = self.spec.action_to_environment(np.stack(result.candidates[rows]))
            candidate_q = np.stack(result.candidate_q[rows])
        return SampleReply(
            action=action,
            q=q,
            q_std=q_std,
            q_first=result.q_first[rows],
            observation_z_max=converted.observation_z_max[rows],
            engine=self._backend.engine,
            candidates=candidates,
            candidate_q=candidate_q,
        )

    def _mean_request(self, observations: int, num_candidates: int, num_steps: int) -> SampleRequest:
        seeds = np.arange(observations, dtype=np.uint64)
        return SampleRequest(np.tile(self.observation_mean, (observations, 1)), num_candidates, num_steps, seeds)

    def _run_mean(self, observations: int, num_candidates: int, num_steps: int) -> None:
        self._compute([RequestPart.whole(self._mean_request(observations, num_candidates, num_steps))])


def _nonfinite(row: int, observation: Float32) -> NoAction:
    """What to say where the policy gave NaN or infinity for `observation`, (obs_dim,), row `row` of its request."""
    index = int(np.argmax(np.abs(observation)))
    if abs(observation[index]) > _LARGE:
        return ObservationTooLarge(
            f"observation: expected values for which the policy's output is finite; found {observation[index]:g} at "
            f"[{row}, {index}]; no action was chosen",
            field="observation",
        )
    return NonfiniteOutput(f"the policy gave NaN or infinity for observation row {row}; no action was chosen")


@dataclass(frozen=True)
class _Converted:
    """A batch's result in environment units.

    Attributes:
        result: R rows.
        observation: (R, obs_dim), as it came.
        action: (R, *action_shape).
        observation_z_max: (R,).
        nonfinite: some row of it is.
    """

    result: SampleResult
    observation: Float32
    action: Float32
    observation_z_max: Float32
    nonfinite: bool
