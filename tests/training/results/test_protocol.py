"""The rules of the experiments."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training.results.errors import ResultsError
from training.results.protocol import Cell, Protocol, Seeds

BEST = Cell(16, 4)


def test_the_grid_has_every_budget_once() -> None:
    grid = Protocol().grid()
    assert len(grid) == len(set(grid)) == 28
    assert {cell.num_candidates for cell in grid} == {1, 2, 4, 8, 16, 32, 64}
    assert {cell.num_steps for cell in grid} == {1, 2, 4, 8}
    assert Protocol().report.episodes >= 200


def test_each_claim_compares_its_two_cells() -> None:
    sides = {claim.key: (str(claim.a), str(claim.b)) for claim in Protocol().claims(BEST)}
    assert sides == {
        "more-candidates": ("(32, 4)", "(1, 4)"),
        "more-steps": ("(1, 8)", "(1, 1)"),
        "best-random": ("(32, 4)", "(32, 4) random"),
        "best-worst": ("(32, 4)", "(32, 4) worst"),
        "equal-compute": ("(1, 8)", "(8, 1)"),
    }
    assert [claim.key for claim in Protocol().claims(BEST) if claim.paper] == ["more-candidates", "more-steps"]


def test_report_seeds_run_the_best_cell_and_both_sides_of_each_claim_once() -> None:
    reported = Protocol().reported(BEST)
    assert reported[0] == BEST
    assert len(reported) == len(set(reported)) == 8


def test_a_cell_is_not_compared_with_itself() -> None:
    assert [claim.key for claim in Protocol(num_steps=(1,)).claims(Cell(2, 1))] == [
        "more-candidates",
        "best-random",
        "best-worst",
    ]


def test_quartile_cells_are_compared_with_the_best_and_with_one_candidate() -> None:
    protocol = replace(Protocol(), quartile_cells=((64, 4), (8, 1)))
    added = protocol.claims(BEST)[len(Protocol().claims(BEST)) :]
    assert [(str(claim.a), str(claim.b), claim.paper) for claim in added] == [
        ("(64, 4) upper-quartile", "(64, 4)", False),
        ("(64, 4) upper-quartile", "(1, 4)", False),
        ("(8, 1) upper-quartile", "(8, 1)", False),
        ("(8, 1) upper-quartile", "(1, 1)", False),
    ]
    # (1, 4), (8, 1) and (1, 1) are run for other claims already.
    extra = set(protocol.reported(BEST)) - set(Protocol().reported(BEST))
    assert extra == {Cell(64, 4, "upper-quartile"), Cell(64, 4), Cell(8, 1, "upper-quartile")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"report": Seeds(10_049, 200)}, "overlap: seeds that choose must not report"),
        ({"selection": Seeds(0, 0)}, "selection seeds"),
        ({"num_steps": ()}, "num_steps"),
        ({"num_candidates": (1, 1)}, "num_candidates"),
        ({"curve_cells": ((0, 4),)}, "curve_cells"),
        ({"quartile_cells": ((3, 4),)}, "quartile_cells must be .* N of at least 4"),
        ({"quartile_cells": ((4, 0),)}, "quartile_cells"),
        ({"quartile_cells": ((4, 8), (4, 8))}, "quartile_cells must be different"),
    ],
)
def test_impossible_protocols_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        replace(Protocol(), **change)  # type: ignore[arg-type]
