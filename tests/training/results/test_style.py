from __future__ import annotations

from training.results.style import CATEGORIES, look


def test_runs_of_one_plot_are_told_apart_beyond_the_seven_colours() -> None:
    looks = [look(index) for index in range(28)]
    assert len({(style["color"], style["marker"]) for style in looks}) == len(looks)
    assert len({style["color"] for style in looks[:7]}) == len(CATEGORIES)
    assert {style["linestyle"] for style in looks[:7]} == {"-"}
    assert looks[7]["linestyle"] != looks[0]["linestyle"]
