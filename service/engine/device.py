"""The device that a server's engines share. Once it has failed, none of its results can be trusted."""

from __future__ import annotations

from collections.abc import Callable

from kernels.backend import DeviceFailure


class Device:
    """Remembers a failure, for all engines. Of the worker thread only.

    Args:
        on_failure: called once, in the worker thread.
    """

    def __init__(self, on_failure: Callable[[DeviceFailure], None]) -> None:
        self._on_failure = on_failure
        self._failure: DeviceFailure | None = None

    def check(self) -> None:
        """Raises the DeviceFailure that it has had, if any."""
        if self._failure is not None:
            raise self._failure

    def fail(self, error: DeviceFailure) -> None:
        """A batch has found that it failed."""
        if self._failure is None:
            self._failure = error
            self._on_failure(error)
