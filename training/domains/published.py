"""Published scores of the domains: the mean over five single tasks on OGBench's own data, in per cent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One method's scores."""

    method: str
    source: str
    """Where the figures are from."""
    scores: dict[str, float]
    """Domain -> per cent; a domain that is missing was not reported there, or not looked up."""


PUBLISHED = (
    Published("SORL", "arXiv 2505.22866", {"cube-single": 97, "cube-double": 25, "scene": 57}),
    Published("FQL", "arXiv 2502.02538", {"cube-double": 29, "scene": 56}),
    Published("best-of-N of a cloned flow", "the repository of Q-chunking, arXiv 2507.07969", {"cube-double": 66}),
    Published("VINE", "its paper", {"cube-double": 74}),
    Published("PCBF", "arXiv 2605.08253", {"cube-double": 71, "scene": 54}),
    Published("Value Flows", "arXiv 2510.07650", {"cube-double": 69, "scene": 59}),
    Published("DIPOLE", "arXiv 2601.00898", {"cube-double": 44, "scene": 60}),
)
