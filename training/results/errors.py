"""Errors of this package.

ResultsError             a policy, a folder of results or a combination of settings that can't be used; says which
└── RecordError          measurements that contradict each other or were made under other conditions
"""

from __future__ import annotations


class ResultsError(ValueError):
    """What was named can't be measured or rendered."""


class RecordError(ResultsError):
    """Kept measurements can't be continued or trusted."""
