"""The rules of the experiments, fixed before any is run: budgets, seeds and claims."""

from __future__ import annotations

from dataclasses import dataclass

from training.episodes import Selection
from training.results.errors import ResultsError

REPORT_EPISODES = 200
"""The fewest report episodes that a headline may rest on."""

# Success in per cent, mean over an environment's five tasks, 8 seeds, 50 episodes, 1M updates, 4 x 512: the paper's
# main table. It publishes no figure per task, and not the (N, M) behind these.
PAPER_SUCCESS = {
    "antmaze-large": 89,
    "antmaze-giant": 9,
    "humanoidmaze-medium": 64,
    "humanoidmaze-large": 5,
    "antsoccer-arena": 69,
    "cube-single": 97,
    "cube-double": 25,
    "scene": 57,
}


@dataclass(frozen=True, order=True)
class Cell:
    """A compute budget (N, M) and the rule that selects among its candidates."""

    num_candidates: int
    num_steps: int
    select: Selection = "best"

    def __str__(self) -> str:
        rule = "" if self.select == "best" else f" {self.select}"
        return f"({self.num_candidates}, {self.num_steps}){rule}"


@dataclass(frozen=True)
class Seeds:
    """The episode seeds first .. first + episodes - 1."""

    first: int
    episodes: int

    @property
    def range(self) -> range:
        """The seeds themselves."""
        return range(self.first, self.first + self.episodes)

    def __str__(self) -> str:
        return f"{self.first} to {self.first + self.episodes - 1}"


@dataclass(frozen=True)
class Claim:
    """A claim that cell A succeeds more often than cell B."""

    key: str
    text: str
    a: Cell
    b: Cell
    paper: bool
    """Whether the paper makes the claim; the others are this project's."""


@dataclass(frozen=True)
class Protocol:
    """What is measured of every policy.

    Raises:
        ResultsError: selection and report seeds overlap, or a number is below 1.
    """

    num_candidates: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    num_steps: tuple[int, ...] = (1, 2, 4, 8)
    selection: Seeds = Seeds(10_000, 50)
    report: Seeds = Seeds(20_000, REPORT_EPISODES)
    many_candidates: int = 32
    verifier_candidates: tuple[int, ...] = (2, 8, 32)
    curve_cells: tuple[tuple[int, int], ...] = ((1, 4), (32, 4))
    quartile_cells: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("num_candidates", "num_steps", "verifier_candidates"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) != len(values):
                raise ResultsError(f"{name} must be one or more different numbers of at least 1, got {values}")
        for name in ("selection", "report"):
            seeds = getattr(self, name)
            if seeds.episodes < 1 or seeds.first < 0:
                raise ResultsError(f"{name} seeds must be at least one episode from at least 0, got {seeds}")
        if set(self.selection.range) & set(self.report.range):
            raise ResultsError(
                f"selection seeds ({self.selection}) and report seeds ({self.report}) overlap: "
                "seeds that choose must not report"
            )
        if any(min(cell) < 1 for cell in self.curve_cells):
            raise ResultsError(f"curve_cells must be pairs N M of at least 1, got {self.curve_cells}")
        different = len(set(self.quartile_cells)) == len(self.quartile_cells)
        if not different or any(n < 4 or m < 1 for n, m in self.quartile_cells):
            raise ResultsError(
                "quartile_cells must be different pairs N M, N of at least 4 (of fewer, the upper quartile is the "
                f"best) and M of at least 1, got {self.quartile_cells}"
            )

    def grid(self) -> list[Cell]:
        """All budgets with the best candidate executed; run on selection seeds."""
        return [Cell(n, m) for m in self.num_steps for n in self.num_candidates]

    def verifier(self, best: Cell) -> list[Cell]:
        """Cells that execute random and worst candidates, at the best cell's M; run on selection seeds."""
        rules: tuple[Selection, ...] = ("random", "worst")
        return [Cell(n, best.num_steps, rule) for rule in rules for n in self.verifier_candidates]

    def claims(self, best: Cell) -> list[Claim]:
        """The claims to test on report seeds, given the best cell on selection seeds."""
        m, many = best.num_steps, self.many_candidates
        few_steps, all_steps = min(self.num_steps), max(self.num_steps)
        chosen = Cell(many, m)
        claims = [
            Claim("more-candidates", f"{many} candidates do better than 1 (best M)", chosen, Cell(1, m), paper=True),
            Claim(
                "more-steps",
                f"{all_steps} steps do better than {few_steps} (N = 1)",
                Cell(1, all_steps),
                Cell(1, few_steps),
                paper=True,
            ),
            Claim(
                "best-random",
                f"the best of {many} by Q does better than a random one",
                chosen,
                Cell(many, m, "random"),
                paper=False,
            ),
            Claim(
                "best-worst",
                f"the best of {many} by Q does better than the worst",
                chosen,
                Cell(many, m, "worst"),
                paper=False,
            ),
            Claim(
                "equal-compute",
                f"of equal actor compute, {all_steps} steps do better than {all_steps} candidates",
                Cell(1, all_steps),
                Cell(all_steps, 1),
                paper=False,
            ),
        ]
        return [claim for claim in claims if claim.a != claim.b] + self.quartile_claims()

    def quartile_claims(self) -> list[Claim]:
        """Two claims for each of `quartile_cells`: the upper quartile of Q against the best, and one candidate."""
        return [
            Claim(
                f"quartile-{name}-{n}-{m}",
                f"of {n} candidates, the one at the upper quartile of Q does better than {text} (M = {m})",
                Cell(n, m, "upper-quartile"),
                other,
                paper=False,
            )
            for n, m in self.quartile_cells
            for name, text, other in (("best", "the best", Cell(n, m)), ("one", "one candidate", Cell(1, m)))
        ]

    def reported(self, best: Cell) -> list[Cell]:
        """All cells to run on report seeds: the best one, and both sides of each claim."""
        sides = [side for claim in self.claims(best) for side in (claim.a, claim.b)]
        return list(dict.fromkeys([best, *sides]))

    def curve(self) -> list[Cell]:
        """The budgets of learning curves; run on selection seeds."""
        return [Cell(n, m) for n, m in self.curve_cells]
