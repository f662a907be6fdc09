"""The interval by which the frontier's rule compares cells, written as its paper has it."""

from __future__ import annotations

from policy.spec import Measurement


def lower_limit(one: Measurement, other: Measurement) -> float:
    """Lower end of Newcombe's interval of p1 - p2, method 10: p1 - p2 - sqrt((p1 - l1)^2 + (u2 - p2)^2)."""
    p1, l1 = one.success, one.low
    p2, u2 = other.success, other.high
    return p1 - p2 - ((p1 - l1) ** 2 + (u2 - p2) ** 2) ** 0.5
