"""Errors of this package.

CheckpointError          a policy file that can't be trusted; the message names the file and the fault
└── SpecError            the fault is in the specification (its metadata key `sorl_policy`)
"""

from __future__ import annotations


class CheckpointError(ValueError):
    """A policy file is damaged, incomplete, from the future, or contradicts itself."""


class SpecError(CheckpointError):
    """A `PolicySpec` field is unknown, missing, of the wrong type, or out of range."""
