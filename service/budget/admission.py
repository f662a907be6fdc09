"""The budget rule: how many candidates and steps a request is granted. Arithmetic only: no queue and no clock.

    no deadline              N and M as given; a missing one comes from the policy's `default_budget`
    deadline, both given     exactly those, if there is time
      on_late = degrade      otherwise the frontier's best cell below them; (1, 1) at least
      on_late = reject       otherwise refused at once
    deadline, one or none    the frontier's best cell that there is time for
      on_late = degrade      a given value is a ceiling; (1, 1) at least
      on_late = reject       a given value is exact; refused at once if there is time for no cell

An N that the server chooses is no more than the limits allow, its own and those of the request's key.

docs/scheduling.md explains the rule, with an example.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, replace
from typing import Literal, NoReturn, Protocol

from policy import PolicySpec
from policy.spec import Budget
from service.budget.frontier import Allowed, Frontier, unmeasured
from service.errors import BudgetTooLarge, DeadlineExceeded, InvalidRequest, Overloaded
from service.sample import SampleRequest
from service.timing import CostEstimate, TimeLeft


class CostPrediction(Protocol):
    """What admission asks of a cost model; see `CostModel`."""

    def estimate(self, observations: int, num_candidates: int, num_steps: int) -> CostEstimate:
        """Predicted cost of a request of B observations, N candidates and M steps."""
        ...

    def fits(self, observations: int, seconds: float) -> Allowed:
        """A test of (N, M): does a request of B observations take `seconds` at most?"""
        ...

    def fits_at_best(self, observations: int, seconds: float) -> Allowed:
        """The same for a machine at its best."""
        ...


SLOW_RETRY_MS = 500
"""When to try again on a server that is slow: what was learned from slowness halves in 0.5 to 1 s without load."""


@dataclass(frozen=True)
class Limits:
    """The most one request may ask for.

    Attributes:
        max_candidates: N.
        max_steps: M; the policy's own denoise_timesteps holds as well.
        max_batch: B, observations in one request.
        max_returned: B * N when the candidates are returned: encoding them takes the event loop's time.
        max_seconds: predicted compute.
    """

    max_candidates: int
    max_steps: int
    max_batch: int
    max_returned: int
    max_seconds: float


@dataclass(frozen=True)
class Grant:
    """N and M as granted, and why they are less than was asked for; False if they are not."""

    num_candidates: int
    num_steps: int
    degraded: Literal[False] | str = False


class Admission:
    """Decides budgets for one policy on one engine, whose `cost` it reads."""

    def __init__(self, spec: PolicySpec, limits: Limits, cost: CostPrediction) -> None:
        self.limits = replace(limits, max_steps=min(limits.max_steps, spec.denoise_timesteps))
        self._default = spec.default_budget
        self._frontier = Frontier.measured(spec.frontier, spec.default_budget)
        self._cost = cost

    def grant(
        self,
        observations: int,
        num_candidates: int | None = None,
        num_steps: int | None = None,
        *,
        time: TimeLeft | None = None,
        on_late: Literal["degrade", "reject"] = "degrade",
        return_candidates: bool = False,
        max_rows: float = math.inf,
    ) -> Grant:
        """N and M for a request.

        Args:
            observations: B.
            num_candidates, num_steps: as asked for; None: the server chooses.
            time: what the deadline leaves; None: there is no deadline.
            on_late: see above.
            return_candidates: the reply will hold all candidates.
            max_rows: the most network rows (B * N) that whoever asks may spend at once. It bounds what the server
                chooses; whether a given N is within it is for the caller to check.

        Raises:
            InvalidRequest: more observations than `max_batch`.
            BudgetTooLarge: N, M or their cost with B are above the limits.
            DeadlineExceeded: on_late is "reject", and there would not be time on an idle server at its best.
            Overloaded: on_late is "reject", and there is no time now: behind what is queued, or as the server is
                slower than at its best.
        """
        limits, n, m = self.limits, num_candidates, num_steps
        if observations > limits.max_batch:
            raise InvalidRequest(
                f"observation: expected at most {limits.max_batch} rows (max_batch), found {observations}",
                field="observation",
            )
        if n is not None and n > limits.max_candidates:
            _refuse("num_candidates", f"1 to {limits.max_candidates} (max_candidates)", reprlib.repr(n))
        if m is not None and m > limits.max_steps:
            _refuse("num_steps", f"1 to {limits.max_steps} (max_steps)", reprlib.repr(m))
        if time is None:
            default = self._default
            grant = Grant(n or _affordable(default.num_candidates, observations, max_rows), m or default.num_steps)
        else:
            most = self._most(observations, return_candidates, max_rows)
            choose = self._exact if on_late == "reject" else self._below
            grant = choose(observations, most, n, m, time)
        self._check(observations, grant, return_candidates)
        return grant

    def largest_batch(self, num_candidates: int, num_steps: int) -> int:
        """The most observations of one request with this budget: by `max_batch`, or by `max_seconds` of compute."""
        estimate = self._cost.estimate(1, num_candidates, num_steps)
        seconds = estimate.seconds()
        return min(self.limits.max_batch, int(self.limits.max_seconds / seconds)) if seconds else self.limits.max_batch

    def reduced(self, request: SampleRequest, seconds: float, rows_done: int) -> SampleRequest:
        """`request` with less N or M, for `seconds` of compute: the frontier's best cell below what it has.

        Once rows are computed M stays, and N becomes what can still be computed, with at least one more row.
        """
        observations, n, m = len(request.observation), request.num_candidates, request.num_steps
        if rows_done:
            estimate = self._cost.estimate(observations, n, m)
            more = estimate.rows_within(seconds / estimate.margin - estimate.per_call)
            budget = Budget(min(n, max((rows_done + more) // observations, rows_done // observations + 1)), m)
        else:
            budget = self._best_below(Budget(n, m), self._cost.fits(observations, seconds))
        if (budget.num_candidates, budget.num_steps) == (n, m):
            return request
        return replace(
            request,
            num_candidates=budget.num_candidates,
            num_steps=budget.num_steps,
            degraded=request.degraded or "load",
        )

    def _most(self, observations: int, return_candidates: bool, max_rows: float) -> Budget:
        """The largest N and M that the server may choose."""
        most = _affordable(self.limits.max_candidates, observations, max_rows)
        if return_candidates:
            most = max(1, min(most, self.limits.max_returned // observations))
        return Budget(most, self.limits.max_steps)

    def _exact(self, observations: int, most: Budget, n: int | None, m: int | None, time: TimeLeft) -> Grant:
        """Given values are exact; raises where there is no time for them."""
        default = self._default_within(most)

        def choose(fits: Allowed) -> Budget | None:
            def allowed(cell_n: int, cell_m: int) -> bool:
                given = n in (None, cell_n) and m in (None, cell_m)
                return given and cell_n <= most.num_candidates and cell_m <= most.num_steps and fits(cell_n, cell_m)

            if n is not None and m is not None:
                return Budget(n, m) if fits(n, m) else None
            if self._frontier.best(lambda cell_n, cell_m: n in (None, cell_n) and m in (None, cell_m)):
                return self._frontier.best(allowed)
            return unmeasured(n or default.num_candidates, m or default.num_steps).best(allowed)

        budget = choose(self._cost.fits(observations, time.now))
        if budget is not None:
            return Grant(budget.num_candidates, budget.num_steps)
        if choose(self._cost.fits_at_best(observations, time.best)) is None:
            raise DeadlineExceeded(
                "the deadline is too short for this budget, even on an idle server; nothing was computed",
                reason="too_short",
            )
        if choose(self._cost.fits(observations, time.idle)) is None:
            raise Overloaded(
                "the deadline is too short for this budget while the server is as slow as it is now",
                retry_after_ms=SLOW_RETRY_MS,
                reason="slow",
            )
        raise Overloaded(
            "behind what is queued there is no time left for this budget",
            retry_after_ms=round((time.idle - time.now) * 1e3),
            reason="backlog",
        )

    def _below(self, observations: int, most: Budget, n: int | None, m: int | None, time: TimeLeft) -> Grant:
        """Given values are ceilings."""
        fits = self._cost.fits(observations, time.now)
        if n is not None and m is not None and fits(n, m):
            return Grant(n, m)
        unset = most if self._frontier else self._default_within(most)
        budget = self._best_below(Budget(n or unset.num_candidates, m or unset.num_steps), fits)
        short = (n is not None and budget.num_candidates < n) or (m is not None and budget.num_steps < m)
        if not short:
            return Grant(budget.num_candidates, budget.num_steps)
        asked = n or 1, m or 1
        if fits(*asked):
            return Grant(budget.num_candidates, budget.num_steps, "frontier")
        why = "load" if self._cost.fits_at_best(observations, time.best)(*asked) else "deadline"
        return Grant(budget.num_candidates, budget.num_steps, why)

    def _default_within(self, most: Budget) -> Budget:
        default = self._default
        return Budget(min(default.num_candidates, most.num_candidates), min(default.num_steps, most.num_steps))

    def _best_below(self, ceiling: Budget, fits: Allowed) -> Budget:
        top_n, top_m = ceiling.num_candidates, ceiling.num_steps
        frontier = self._frontier or unmeasured(top_n, top_m)
        return frontier.best(lambda n, m: n <= top_n and m <= top_m and fits(n, m)) or Budget(1, 1)

    def _check(self, observations: int, grant: Grant, return_candidates: bool) -> None:
        limits, n, m = self.limits, grant.num_candidates, grant.num_steps
        if n > limits.max_candidates:
            _refuse("num_candidates", f"at most {limits.max_candidates} (max_candidates)", f"{n}, the policy's default")
        if m > limits.max_steps:
            _refuse("num_steps", f"at most {limits.max_steps} (max_steps)", f"{m}, the policy's default")
        if return_candidates and observations * n > limits.max_returned:
            expected = f"at most {limits.max_returned} rows x candidates with return_candidates"
            _refuse("return_candidates", expected, f"{observations} x {n}")
        seconds = self._cost.estimate(observations, n, m).seconds()
        if seconds > limits.max_seconds:
            expected = f"at most {limits.max_seconds:g} s of predicted compute (max_queue_seconds)"
            _refuse("num_candidates", expected, f"{seconds:.3g} s for {observations} rows, N = {n}, M = {m}")


def _affordable(most: int, observations: int, max_rows: float) -> int:
    """The largest N up to `most` for which B * N is at most `max_rows`; 1 at least."""
    return most if most * observations <= max_rows else max(1, int(max_rows // observations))


def _refuse(field: str, expected: str, found: str) -> NoReturn:
    raise BudgetTooLarge(f"{field}: expected {expected}; found {found}", field=field)
