"""The contestants: how robots and load ask for compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policy import Budget, PolicySpec


@dataclass(frozen=True)
class Rule:
    """How a contestant asks: for a fixed budget, or (None) with nothing but a deadline.

    A fixed budget is exact: if the deadline leaves no time for it, the server is to refuse, not to compute less. What
    the server chooses has at least `min_quality` of the best cell's success; without time for that it refuses.
    """

    name: str
    budget: Budget | None = None
    min_quality: float = 0.0

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of its requests, besides observation and deadline."""
        if self.budget is None:
            return {"min_quality": self.min_quality} if self.min_quality else {}
        n, m = self.budget.num_candidates, self.budget.num_steps
        return {"num_candidates": n, "num_steps": m, "on_late": "reject"}

    def __str__(self) -> str:
        if self.budget is None:
            limit = f", to no less than {self.min_quality:g} of the best success" if self.min_quality else ""
            return f"{self.name}: a deadline only; the server chooses (N, M), and reduces them{limit}"
        n, m = self.budget.num_candidates, self.budget.num_steps
        return f"{self.name}: ({n}, {m}), refused if there is no time for it"


def rules_of(spec: PolicySpec, min_quality: float = 0.0) -> tuple[Rule, Rule, Rule]:
    """The contestants of a policy: elastic, best fixed (its default budget) and cheapest.

    The cheapest budget is (1, 1). If the policy's frontier was measured without it, it is the measured cell with the
    fewest candidates x steps. A policy without measured cells has none to leave out: elastic has no limit there.
    """
    cells = [Budget(cell.num_candidates, cell.num_steps) for cell in spec.frontier] or [Budget(1, 1)]
    cheapest = min(cells, key=lambda cell: (cell.num_candidates * cell.num_steps, cell.num_candidates))
    elastic = Rule("elastic", min_quality=min_quality if spec.frontier else 0.0)
    return elastic, Rule("best fixed", spec.default_budget), Rule("cheapest", cheapest)
