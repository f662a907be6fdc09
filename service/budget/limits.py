"""The most that one request may ask for, and may be granted."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import NoReturn

from policy.spec import Budget
from service.errors import BudgetTooLarge, InvalidRequest


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

    def check_asked(self, observations: int, num_candidates: int | None, num_steps: int | None) -> None:
        """Check B, and N and M where they are given.

        Raises:
            InvalidRequest: B is above the limit.
            BudgetTooLarge: N or M is.
        """
        if observations > self.max_batch:
            raise InvalidRequest(
                f"observation: expected at most {self.max_batch} rows (max_batch), found {observations}",
                field="observation",
            )
        if num_candidates is not None and num_candidates > self.max_candidates:
            expected = f"1 to {self.max_candidates} (max_candidates)"
            _refuse("num_candidates", expected, reprlib.repr(num_candidates))
        if num_steps is not None and num_steps > self.max_steps:
            _refuse("num_steps", f"1 to {self.max_steps} (max_steps)", reprlib.repr(num_steps))

    def check_granted(self, observations: int, n: int, m: int, seconds: float, return_candidates: bool) -> None:
        """Check the N and M that would be granted, of `seconds` of predicted compute. Raises BudgetTooLarge."""
        if n > self.max_candidates:
            _refuse("num_candidates", f"at most {self.max_candidates} (max_candidates)", f"{n}, the policy's default")
        if m > self.max_steps:
            _refuse("num_steps", f"at most {self.max_steps} (max_steps)", f"{m}, the policy's default")
        if return_candidates and observations * n > self.max_returned:
            expected = f"at most {self.max_returned} rows x candidates with return_candidates"
            _refuse("return_candidates", expected, f"{observations} x {n}")
        if seconds > self.max_seconds:
            expected = f"at most {self.max_seconds:g} s of predicted compute (max_queue_seconds)"
            _refuse("num_candidates", expected, f"{seconds:.3g} s for {observations} rows, N = {n}, M = {m}")

    def most(self, observations: int, return_candidates: bool, max_rows: float) -> Budget:
        """The largest N and M that the server may choose, where whoever asks may spend `max_rows` network rows."""
        most = affordable(self.max_candidates, observations, max_rows)
        if return_candidates:
            most = max(1, min(most, self.max_returned // observations))
        return Budget(most, self.max_steps)


def affordable(most: int, observations: int, max_rows: float) -> int:
    """The largest N up to `most` for which B * N is at most `max_rows`; 1 at least."""
    return most if most * observations <= max_rows else max(1, int(max_rows // observations))


def _refuse(field: str, expected: str, found: str) -> NoReturn:
    raise BudgetTooLarge(f"{field}: expected {expected}; found {found}", field=field)
