"""The budget rule: how many candidates and steps a request is granted. Arithmetic only: no queue and no clock.

    no deadline              N and M as given; a missing one comes from the policy's `default_budget`
    deadline, both given     exactly those, if there is time
      on_late = degrade      otherwise the frontier's best cell below them; (1, 1) at least
      on_late = reject       otherwise refused at once
    deadline, one or none    the frontier's best cell that there is time for
      on_late = degrade      a given value is a ceiling; (1, 1) at least
      on_late = reject       a given value is exact; refused at once if there is time for no cell

With `min_quality`, the server chooses no cell whose measured success is less than this share of the best one's. Where
there is time for no other, "degrade" refuses as "reject" does.

An N that the server chooses is no more than the limits allow, its own and those of the request's key.

docs/scheduling.md explains the rule, with an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from policy import PolicySpec
from policy.spec import Budget
from service.budget.frontier import Allowed, Frontier, unmeasured
from service.budget.limits import Limits, affordable
from service.errors import DeadlineExceeded, InvalidRequest, Overloaded
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
class Grant:
    """N and M as granted, and why they are less than was asked for; False if they are not."""

    num_candidates: int
    num_steps: int
    degraded: Literal[False] | str = False


@dataclass(frozen=True)
class _Choices:
    """What a request with a deadline may be granted.

    Attributes:
        within: is a cell of the frontier among them, if there is time for it?
        best: the best of those that fit; None if there is none.
    """

    within: Allowed
    best: Callable[[Allowed], Budget | None]


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
        min_quality: float = 0.0,
        return_candidates: bool = False,
        max_rows: float = math.inf,
    ) -> Grant:
        """N and M for a request.

        Args:
            observations: B.
            num_candidates, num_steps: as asked for; None: the server chooses.
            time: what the deadline leaves; None: there is no deadline.
            on_late, min_quality: see above.
            return_candidates: the reply will hold all candidates.
            max_rows: the most network rows (B * N) that whoever asks may spend at once. It bounds what the server
                chooses; whether a given N is within it is for the caller to check.

        Raises:
            InvalidRequest: more observations than `max_batch`, or no cell of `min_quality` that may be granted.
            BudgetTooLarge: N, M or their cost with B are above the limits.
            DeadlineExceeded: there is a lower limit, "reject" or `min_quality`, and there would not be time on an idle
                server at its best.
            Overloaded: there is a lower limit, and there is no time now: behind what is queued, or as the server is
                slower than at its best.
        """
        limits, n, m = self.limits, num_candidates, num_steps
        limits.check_asked(observations, n, m)
        if time is None:
            default = self._default
            grant = Grant(n or affordable(default.num_candidates, observations, max_rows), m or default.num_steps)
        else:
            most = limits.most(observations, return_candidates, max_rows)
            choices = (self._exact if on_late == "reject" else self._below)(most, n, m, min_quality)
            grant = self._in_time(observations, n, m, choices, time, min_quality)
        seconds = self._cost.estimate(observations, grant.num_candidates, grant.num_steps).seconds()
        limits.check_granted(observations, grant.num_candidates, grant.num_steps, seconds, return_candidates)
        return grant

    def largest_batch(self, num_candidates: int, num_steps: int) -> int:
        """The most observations of one request with this budget: by `max_batch`, or by `max_seconds` of compute."""
        estimate = self._cost.estimate(1, num_candidates, num_steps)
        seconds = estimate.seconds()
        return min(self.limits.max_batch, int(self.limits.max_seconds / seconds)) if seconds else self.limits.max_batch

    def reduced(
        self, request: SampleRequest, seconds: float, rows_done: int, min_quality: float = 0.0
    ) -> SampleRequest | None:
        """`request` with less N or M, for `seconds` of compute: the frontier's best cell below what it has.

        Once rows are computed M stays, and N becomes what can still be computed, with at least one more row. With
        `min_quality` it becomes a cell's; None where no cell is left.
        """
        observations, n, m = len(request.observation), request.num_candidates, request.num_steps
        budget: Budget | None
        if rows_done:
            estimate = self._cost.estimate(observations, n, m)
            more = estimate.rows_within(seconds / estimate.margin - estimate.per_call)
            least, most = rows_done // observations + 1, min(n, (rows_done + more) // observations)
            if most < n and min_quality:
                cells = self._frontier.at_least(min_quality)
                budget = cells.best(lambda cell_n, cell_m: least <= cell_n <= most and cell_m == m)
            else:
                budget = Budget(max(most, least), m)
        else:
            budget = self._best_below(Budget(n, m), self._cost.fits(observations, seconds), min_quality)
        if budget is None:
            return None
        if (budget.num_candidates, budget.num_steps) == (n, m):
            return request
        return replace(
            request,
            num_candidates=budget.num_candidates,
            num_steps=budget.num_steps,
            degraded=request.degraded or "load",
        )

    def _exact(self, most: Budget, n: int | None, m: int | None, min_quality: float) -> _Choices:
        """Given values are exact."""
        default = self._default_within(most)
        cells = self._frontier.at_least(min_quality)

        def given(cell_n: int, cell_m: int) -> bool:
            return n in (None, cell_n) and m in (None, cell_m)

        def within(cell_n: int, cell_m: int) -> bool:
            return given(cell_n, cell_m) and cell_n <= most.num_candidates and cell_m <= most.num_steps

        def choose(fits: Allowed) -> Budget | None:
            def allowed(cell_n: int, cell_m: int) -> bool:
                return within(cell_n, cell_m) and fits(cell_n, cell_m)

            if n is not None and m is not None:
                return Budget(n, m) if fits(n, m) else None
            if min_quality or cells.best(given):
                return cells.best(allowed)
            return unmeasured(n or default.num_candidates, m or default.num_steps).best(allowed)

        return _Choices(within, choose)

    def _below(self, most: Budget, n: int | None, m: int | None, min_quality: float) -> _Choices:
        """Given values are ceilings, and a pair of them is best where it fits."""
        unset = most if self._frontier else self._default_within(most)
        ceiling = Budget(n or unset.num_candidates, m or unset.num_steps)

        def choose(fits: Allowed) -> Budget | None:
            if n is not None and m is not None and fits(n, m):
                return ceiling
            return self._best_below(ceiling, fits, min_quality)

        return _Choices(_within(ceiling), choose)

    def _in_time(
        self, observations: int, n: int | None, m: int | None, choices: _Choices, time: TimeLeft, min_quality: float
    ) -> Grant:
        """The best of the choices that there is time for; raises where there is none."""
        if n is None or m is None:
            self._check_quality(min_quality, choices.within)
        fits = self._cost.fits(observations, time.now)
        budget = choices.best(fits)
        if budget is None:
            raise self._too_late(observations, choices, time, min_quality)
        short = (n is not None and budget.num_candidates < n) or (m is not None and budget.num_steps < m)
        if not short:
            return Grant(budget.num_candidates, budget.num_steps)
        given = n or 1, m or 1
        if fits(*given):
            return Grant(budget.num_candidates, budget.num_steps, "frontier")
        why = "load" if self._cost.fits_at_best(observations, time.best)(*given) else "deadline"
        return Grant(budget.num_candidates, budget.num_steps, why)

    def _too_late(
        self, observations: int, choices: _Choices, time: TimeLeft, min_quality: float
    ) -> DeadlineExceeded | Overloaded:
        """Why there is no time for any of the choices."""
        budget = f"an N and M of min_quality {min_quality:g}" if min_quality else "this budget"
        if choices.best(self._cost.fits_at_best(observations, time.best)) is None:
            return DeadlineExceeded(
                f"the deadline is too short for {budget}, even on an idle server; nothing was computed",
                reason="too_short",
            )
        if choices.best(self._cost.fits(observations, time.idle)) is None:
            return Overloaded(
                f"the deadline is too short for {budget} while the server is as slow as it is now",
                retry_after_ms=SLOW_RETRY_MS,
                reason="slow",
            )
        return Overloaded(
            f"behind what is queued there is no time left for {budget}",
            retry_after_ms=round((time.idle - time.now) * 1e3),
            reason="backlog",
        )

    def _check_quality(self, min_quality: float, allowed: Allowed) -> None:
        """Refuse what no time would be enough for."""
        if not min_quality or self._frontier.at_least(min_quality).best(allowed):
            return
        if not self._frontier:
            fault = "expected a policy whose (N, M) were measured; /models has no frontier of this one"
        else:
            quality = math.floor(self._frontier.quality(allowed) * 1e4) / 1e4
            fault = f"expected at most {quality:g}, the best of the (N, M) that may be granted; found {min_quality:g}"
        raise InvalidRequest(f"min_quality: {fault}", field="min_quality")

    def _default_within(self, most: Budget) -> Budget:
        default = self._default
        return Budget(min(default.num_candidates, most.num_candidates), min(default.num_steps, most.num_steps))

    def _best_below(self, ceiling: Budget, fits: Allowed, min_quality: float) -> Budget | None:
        """The best cell that fits. Without `min_quality` never None: the least there is, whether it fits or not."""
        within = _within(ceiling)
        frontier = self._frontier or unmeasured(ceiling.num_candidates, ceiling.num_steps)
        budget = frontier.at_least(min_quality).best(lambda n, m: within(n, m) and fits(n, m))
        return budget or (None if min_quality else Budget(1, 1))


def _within(ceiling: Budget) -> Allowed:
    return lambda n, m: n <= ceiling.num_candidates and m <= ceiling.num_steps
