"""Numbers as text, with the same rounding on pages, plots and cards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def percent(share: float) -> str:
    """0.91 as "91.0 %"."""
    return f"{100 * share:.1f} %"


def rate(row: Mapping[str, Any]) -> str:
    """ "91.0 % [86.2, 94.2]" from success, low and high, in [0, 1]."""
    return f"{percent(row['success'])} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def points(difference: float, low: float, high: float) -> str:
    """A difference of rates in percentage points: "+14.5 points [+6.1, +22.5]"."""
    return f"{100 * difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def change(value: float, low: float, high: float) -> str:
    """A mean with its interval: "+1.25 [+0.90, +1.60]"."""
    return f"{value:+.2f} [{_signed(low)}, {_signed(high)}]"


def number(value: float | None, digits: int = 2) -> str:
    """`value` rounded to `digits`; "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def p_value(p: float) -> str:
    """ "p = 0.0525" """
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"


def duration(seconds: float | None) -> str:
    """ "1.4 h", "12 min" or "40 s"; "unknown time" for None."""
    if seconds is None:
        return "unknown time"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def layers(widths: Sequence[object]) -> str:
    """Hidden widths: "4 x 512", or "(512, 256)" where they differ."""
    same = len(set(widths)) == 1
    return f"{len(widths)} x {widths[0]}" if same else f"({', '.join(map(str, widths))})"


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "unbounded"
