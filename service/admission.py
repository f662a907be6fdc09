"""The budget rule: how much compute a request is granted. Pure arithmetic on numbers, no queue, no clock.

Nothing given: the checkpoint's `default_budget`. N or M given: exactly that, the other one from `default_budget`.
A deadline so far only bounds the wait in the queue; choosing N and M from it belongs in `Admission.grant`.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Literal

from policy import PolicySpec
from service.errors import BudgetTooLarge, InvalidRequest
from service.schemas import ActRequest


@dataclass(frozen=True)
class Limits:
    """The most one request may ask for.

    Attributes:
        max_candidates: N.
        max_batch: B, observations in one request.
        max_rows: B * N.
        max_returned: B * N when the candidates are returned: writing them takes the event loop's time.
    """

    max_candidates: int
    max_batch: int
    max_rows: int
    max_returned: int


@dataclass(frozen=True)
class Grant:
    """N and M as granted, and why they are less than asked (False: they are not)."""

    num_candidates: int
    num_steps: int
    degraded: Literal[False] | str = False


class Admission:
    """Decides budgets for one policy."""

    def __init__(self, spec: PolicySpec, limits: Limits) -> None:
        self.limits = limits
        self._default = spec.default_budget
        self._max_steps = spec.denoise_timesteps

    def grant(self, request: ActRequest) -> Grant:
        """N and M for `request`.

        Raises:
            InvalidRequest: more observations than `max_batch`.
            BudgetTooLarge: N, M or the rows they make with B are above the limits.
        """
        limits = self.limits
        rows = len(request.observation) if request.observation.ndim == 2 else 1
        if rows > limits.max_batch:
            raise InvalidRequest(
                f"observation: expected at most {limits.max_batch} rows (max_batch), found {rows}", field="observation"
            )
        n = self._default.num_candidates if request.num_candidates is None else request.num_candidates
        m = self._default.num_steps if request.num_steps is None else request.num_steps
        if n > limits.max_candidates:
            self._refuse("num_candidates", f"1 to {limits.max_candidates} (max_candidates)", reprlib.repr(n))
        if m > self._max_steps:
            self._refuse("num_steps", f"1 to {self._max_steps} (denoise_timesteps of the policy)", reprlib.repr(m))
        if rows * n > limits.max_rows:
            self._refuse("num_candidates", f"at most {limits.max_rows} rows x candidates", f"{rows} x {n}")
        if request.return_candidates and rows * n > limits.max_returned:
            expected = f"at most {limits.max_returned} rows x candidates with return_candidates"
            self._refuse("return_candidates", expected, f"{rows} x {n}")
        return Grant(n, m)

    @staticmethod
    def _refuse(field: str, expected: str, found: str) -> None:
        raise BudgetTooLarge(f"{field}: expected {expected}; found {found}", field=field)
