from __future__ import annotations

from training.plotting import CATEGORIES, series_style


def test_runs_of_one_plot_are_told_apart_beyond_the_seven_colours() -> None:
    looks = [series_style(index) for index in range(28)]
    assert len({(style["color"], style["marker"]) for style in looks}) == len(looks)
    assert len({style["color"] for style in looks[:7]}) == len(CATEGORIES)
    assert {style["linestyle"] for style in looks[:7]} == {"-"}
    assert looks[7]["linestyle"] != looks[0]["linestyle"]
