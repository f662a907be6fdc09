"""An engine: one policy on one device. NumPy in, NumPy out; all calls come from the scheduler's one worker thread.

portions of works -> rows of one SampleBatch -> Backend.sample_and_score -> an outcome for each portion
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kernels.backend import Backend, DeviceFailure, SampleResult, SelfChecking
from kernels.threads import limit_torch_threads
from policy import Policy
from policy.flops import flops_of
from service.budget.cost_model import TERMS, Batch, CostModel
from service.engine.calibration import Calibration
from service.engine.device import Device
from service.engine.partial_result import RunningBest, batch_of
from service.errors import NonfiniteOutput
from service.observability.metrics import Metrics
from service.sample import Float32, Outcome, Work
from service.scheduling.job import Portion, Price

log = logging.getLogger(__name__)


class Engine:
    """Runs slices of works.

    Args:
        policy: the policy that `backend` samples.
        backend: from `kernels.choice.create_backend`.
        metrics: where batches are counted.
        threads: threads of torch's operators, for backends that use them.
        max_batch_rows: network rows of the largest batch that will come.
        device: what it runs on, with the server's other engines.

    Attributes:
        cost: predicts its batches; zero until `warm_up`.
        observation_mean, observation_std: (obs_dim,), of the training data.
    """

    def __init__(
        self,
        policy: Policy,
        backend: Backend,
        metrics: Metrics,
        *,
        threads: int,
        max_batch_rows: int,
        device: Device,
    ) -> None:
        self.spec = policy.spec
        self.cost = CostModel()
        self._backend = backend
        self._metrics = metrics
        self._flops = flops_of(policy.spec)
        self._threads = threads
        self._max_batch_rows = max_batch_rows
        self._device = device
        self.observation_mean = policy.observation_mean.cpu().float().numpy()
        self.observation_std = policy.observation_std.cpu().float().numpy()

    @property
    def name(self) -> str:
        """What replies call `engine`, e.g. "reference/fp32/cpu"."""
        return self._backend.engine

    def price(self, work: Work) -> Price:
        """What `work` is predicted to cost here. From any thread."""
        return self.cost.price(len(work.observation), work.num_candidates, work.num_steps)

    def warm_up(self) -> None:
        """Run representative shapes, so that no client pays for a first time, and fit the cost model.

        Raises:
            Whatever the backend raises, BackendMismatch if it finds itself wrong; NonfiniteOutput if the policy gives
            NaN for its own mean observation.
        """
        limit_torch_threads(self._threads)
        started = time.perf_counter()
        for piece in self.rehearsal():
            piece()
        log.info("%s warmed up in %.2f s", self.name, time.perf_counter() - started)

    def rehearsal(self) -> list[Callable[[], None]]:
        """`warm_up` in pieces of a few batches at most, so that other engines' batches can go between them."""
        default = self.spec.default_budget
        budgets = {(1, 1), (default.num_candidates, default.num_steps), (32, self.spec.denoise_timesteps)}
        budgets |= {(cell.num_candidates, cell.num_steps) for cell in self.spec.frontier}
        shapes = [(b, n, m) for b in (1, 4, 16) for n, m in sorted(budgets) if b * n <= self._max_batch_rows]
        works = [self._mean_work(*shape) for shape in shapes]
        rows = itertools.accumulate(work.rows for work in works)
        mixed = [work for work, total in zip(works, rows, strict=True) if total <= self._max_batch_rows]
        calibration = Calibration(self._run_mean, self.spec.denoise_timesteps, self._max_batch_rows)
        return [
            *([self._backend.check] if isinstance(self._backend, SelfChecking) else []),
            *(partial(self._rehearse, batch) for batch in [*([work] for work in works), mixed]),
            *(partial(calibration.measure, shape) for shape in calibration.shapes),
            partial(self._fit, calibration),
        ]

    def run(self, portions: list[Portion[Work]]) -> Sequence[Outcome | RunningBest | NonfiniteOutput]:
        """Compute a slice and count it. A portion that is not its work's last gives what the next one carries.

        Raises:
            DeviceFailure: the device failed, under this slice or an earlier one of any engine.
        """
        self._device.check()
        started = time.perf_counter()
        try:
            outcomes = self._compute(portions)
        except DeviceFailure as error:
            self._device.fail(error)
            raise
        seconds = time.perf_counter() - started
        rows = [portion.stop - portion.start for portion in portions]
        batch = Batch(
            observations=sum(len(portion.work.observation) for portion in portions),
            actor_rows=sum(count * portion.work.num_steps for count, portion in zip(rows, portions, strict=True)),
            critic_rows=sum(rows),
        )
        self.cost.observe(batch, seconds)
        self._metrics.count_batch(
            batch, requests=len(portions), members=self.spec.ensemble_size, flops=self._flops, seconds=seconds
        )
        return outcomes

    def _rehearse(self, works: list[Work]) -> None:
        for outcome in self._compute([Portion(work, 0, work.rows) for work in works]):
            if isinstance(outcome, NonfiniteOutput):
                raise outcome

    def _fit(self, calibration: Calibration) -> None:
        self.cost.fit(calibration.measured)
        terms = ", ".join(f"{self.cost.coefficient(term) * 1e6:.3g} us a {term}" for term in TERMS)
        log.info("%s: cost model: %s, relative error %.2f", self.name, terms, self.cost.relative_error)

    def _compute(self, portions: list[Portion[Work]]) -> list[Outcome | RunningBest | NonfiniteOutput]:
        batch, observations = batch_of(portions)
        result = self._backend.sample_and_score(batch)
        answers = self._answers(result, batch.observation)
        outcomes: list[Outcome | RunningBest | NonfiniteOutput] = []
        start = 0
        for portion, which in zip(portions, observations, strict=True):
            work = portion.work
            rows = slice(start, start + len(which))
            start = rows.stop
            whole = portion.start == 0 and portion.stop == work.rows
            if whole:
                outcomes.append(self._outcome(work, answers, rows))
                continue
            best: RunningBest = portion.carry or RunningBest(work, self.spec.action_dim)
            best.add(portion, which, result, rows)
            if portion.stop == work.rows:
                total = self._answers(best.result(), work.observation)
                outcomes.append(self._outcome(work, total, slice(0, len(work.observation))))
            else:
                outcomes.append(best)
        return outcomes

    def _answers(self, result: SampleResult, observation: Float32) -> _Answers:
        """Once a batch: for each of its requests it would cost 30 us of the interpreter's lock."""
        return _Answers(
            result=result,
            action=self.spec.action_to_environment(result.action),
            observation_z_max=np.abs((observation - self.observation_mean) / self.observation_std).max(axis=1),
            nonfinite=bool(result.nonfinite.any()),
        )

    def _outcome(self, work: Work, answers: _Answers, rows: slice) -> Outcome | NonfiniteOutput:
        result = answers.result
        if answers.nonfinite and result.nonfinite[rows].any():
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
            action=answers.action[rows],
            q=result.q[rows],
            q_std=result.q_std[rows],
            q_first=result.q_first[rows],
            observation_z_max=answers.observation_z_max[rows],
            engine=self._backend.engine,
            candidates=candidates,
            candidate_q=candidate_q,
        )

    def _mean_work(self, observations: int, num_candidates: int, num_steps: int) -> Work:
        seeds = np.arange(observations, dtype=np.uint64)
        return Work(np.tile(self.observation_mean, (observations, 1)), num_candidates, num_steps, seeds)

    def _run_mean(self, observations: int, num_candidates: int, num_steps: int) -> None:
        work = self._mean_work(observations, num_candidates, num_steps)
        self._compute([Portion(work, 0, work.rows)])


@dataclass(frozen=True)
class _Answers:
    """A batch's result in environment units.

    Attributes:
        result: R rows.
        action: (R, action_dim).
        observation_z_max: (R,).
        nonfinite: of some row.
    """

    result: SampleResult
    action: Float32
    observation_z_max: Float32
    nonfinite: bool
