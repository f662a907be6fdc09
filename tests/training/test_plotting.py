from __future__ import annotations

from training.plotting import CATEGORIES, series_style


def test_up_to_28_series_of_a_plot_look_different() -> None:
    looks = [series_style(index) for index in range(28)]
    assert len({(style["color"], style["marker"]) for style in looks}) == len(looks)
    assert len({style["color"] for style in looks[:7]}) == len(CATEGORIES)
    assert {style["linestyle"] for style in looks[:7]} == {"-"}
    assert looks[7]["linestyle"] != looks[0]["linestyle"]
