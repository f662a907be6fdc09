"""The style of all plots: colours that colour-blind readers can tell apart, panels, intervals, footnotes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from training.files import atomic_path

# Okabe and Ito, "Color Universal Design" (2008), without yellow, which is faint on white.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SETTINGS: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.title_fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}


def category(index: int) -> str:
    """The colour of a category; the seven colours repeat."""
    return CATEGORIES[index % len(CATEGORIES)]


def series_style(index: int) -> dict[str, Any]:
    """Colour, marker and line style of one series among many: after seven series, markers and dashes change too."""
    rounds = index // len(CATEGORIES)
    return {
        "color": category(index),
        "marker": MARKERS[(index + rounds) % len(MARKERS)],
        "linestyle": ("-", "--", ":", "-.")[rounds % 4],
    }


def ordered_color(index: int, count: int) -> Any:
    """Colour `index` of `count` values of an ordered quantity: viridis without its palest end."""
    return colormaps["viridis"](0.9 * index / max(1, count - 1))


class Plot:
    """A figure of equal panels with a footnote. `with Plot(path, 2, note) as panels:` yields axes and saves the PNG.

    Args:
        path: the PNG file.
        panels: number of panels.
        note: the footnote.
        columns: the most panels in a row.
        share: panels share both axes.
    """

    def __init__(self, path: Path, panels: int, note: str, columns: int = 3, share: bool = True) -> None:
        columns = min(columns, panels)
        rows = math.ceil(panels / columns)
        self._path = path
        self._context = rc_context(SETTINGS)
        self._context.__enter__()
        width = max(5.6, 4.3 * columns)
        self._figure = Figure(figsize=(width, 3.4 * rows + 0.5), layout="constrained")
        grid = self._figure.subplots(rows, columns, squeeze=False, sharey=share, sharex=share)
        self._axes = [axes for row in grid for axes in row]
        for spare in self._axes[panels:]:
            spare.set_axis_off()
        self._panels = panels
        self._inner = [axes for number, axes in enumerate(self._axes) if share and number % columns]
        self._note = "\n".join(textwrap.wrap(note, int(18 * width)))

    def __enter__(self) -> list[Axes]:
        return self._axes[: self._panels]

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                for axes in self._inner:
                    axes.set_ylabel("")
                self._figure.supxlabel(self._note, fontsize=7, color="0.35", x=0.01, ha="left")
                with atomic_path(self._path) as temporary:
                    self._figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        finally:
            self._context.__exit__(None, None, None)


def draw_rates(
    axes: Axes, x: Sequence[float], rows: Sequence[dict[str, Any]], shift: float = 1.0, **style: Any
) -> None:
    """Success rates with their intervals as error bars.

    Args:
        rows: with success, low and high, in [0, 1].
        shift: factor on `x`, so that series on a logarithmic axis do not cover each other; see `dodge`.
    """
    success = [row["success"] for row in rows]
    below = [row["success"] - row["low"] for row in rows]
    above = [row["high"] - row["success"] for row in rows]
    axes.errorbar([value * shift for value in x], success, yerr=[below, above], elinewidth=0.8, capsize=1.5, **style)


def success_axis(axes: Axes, label: str = "success") -> None:
    """A vertical axis from 0 to 100 %."""
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0, symbol=" %"))
    axes.set_ylabel(label)


def doubling_axis(axes: Axes, values: Sequence[int], label: str) -> None:
    """A base-2 logarithmic axis with a tick at each of `values`."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def milliseconds_axis(axes: Axes, label: str) -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10, 20, ..."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def updates_axis(axes: Axes) -> None:
    """A linear axis of update counts, from 0."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlim(left=0)
    axes.set_xlabel("updates")


def dodge(index: int, count: int, width: float = 0.03) -> float:
    """The factor that moves series `index` of `count` beside the others on a logarithmic axis."""
    return float(2 ** (width * (index - (count - 1) / 2) * 2))
