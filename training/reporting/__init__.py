"""Reporting: what figures may say, and how they are written.

`statistics` compares rates and means; `wording` rounds numbers and puts them into words; `markdown` makes tables. Pages
of results, pages of sweeps and model cards share them, so that a figure reads the same everywhere.
"""

from training.reporting.markdown import budget_table, rate_cell, table
from training.reporting.statistics import (
    Paired,
    area_over_compute,
    correlation,
    mean_interval,
    separation,
    sign_test,
)
from training.reporting.wording import change, duration, layers, number, p_value, percent, points, rate

__all__ = [
    "Paired",
    "area_over_compute",
    "budget_table",
    "change",
    "correlation",
    "duration",
    "layers",
    "mean_interval",
    "number",
    "p_value",
    "percent",
    "points",
    "rate",
    "rate_cell",
    "separation",
    "sign_test",
    "table",
]
