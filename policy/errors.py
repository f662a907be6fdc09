"""Errors of this package.

CheckpointError          a policy file is invalid; the message names the file and the fault
└── SpecError            the fault is in the specification (metadata key `sorl_policy`)
"""

from __future__ import annotations


class CheckpointError(ValueError):
    """A policy file is damaged, incomplete, of a newer format, or inconsistent."""


class SpecError(CheckpointError):
    """A `PolicySpec` field is unknown, missing, of the wrong type, or out of range."""
