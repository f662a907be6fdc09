"""Errors of this room.

ResultsError             a policy, a folder of results or a combination of settings cannot be used; names it
└── RecordError          measurements contradict each other, or were made under other conditions
"""

from __future__ import annotations


class ResultsError(ValueError):
    """Something cannot be measured or rendered; the message says what and why."""


class RecordError(ResultsError):
    """Stored measurements cannot be continued or trusted."""
