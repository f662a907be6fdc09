"""An inference request's parameters: fields of POST /act, and Triton's priority and timeout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import DeadlineExceeded, InvalidRequest, ServiceError
from service.protocol.codec import brief, refuse
from service.protocol.schemas import MAX_DEADLINE_MS, whole

_OF_ACT = (
    "num_candidates", "num_steps", "deadline_ms", "on_late", "min_quality", "seed", "temperature", "coherence",
    "model_version",
)  # fmt: skip
PARAMETERS = (*_OF_ACT, "priority", "timeout", "binary_data_output")
_LOWEST_PRIORITY = 10
_MAX_TIMEOUT = MAX_DEADLINE_MS * 1000


def act_parameters(parameters: Mapping[str, Any], version: str | None) -> dict[str, Any]:
    """The fields of POST /act that `parameters` stand for, not checked yet.

    Args:
        version: of the model, as the address names it.

    Raises:
        InvalidRequest: a parameter that there is not, two that say the same, or one of Triton's out of its range.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    unknown = given.keys() - set(PARAMETERS)
    if unknown:
        name = min(unknown)
        raise InvalidRequest(f"{brief(name)} is not a parameter; there are {', '.join(PARAMETERS)}", field=name)
    fields = {name: given[name] for name in _OF_ACT if name in given}
    if version is not None:
        if given.get("model_version", version) != version:
            refuse("model_version", f"{brief(version)}, as in the address", brief(given["model_version"]))
        fields["model_version"] = version
    return fields | _priority(given.get("priority", 0)) | _deadline(given.get("timeout", 0), "deadline_ms" in given)


def name_timeout(error: ServiceError, parameters: Mapping[str, Any]) -> None:
    """Let an error about the deadline speak of `timeout`, if that was given."""
    timeout = whole(parameters.get("timeout"))
    if timeout and isinstance(error, DeadlineExceeded):
        error.name_deadline("timeout", timeout, "microseconds")


def _priority(value: Any) -> dict[str, Any]:
    """Triton's: 1 is served first, 0 stands for the default. POST /act's is one less."""
    value = whole(value)
    if type(value) is not int or not 0 <= value <= _LOWEST_PRIORITY:
        refuse("priority", f"1 (served first) to {_LOWEST_PRIORITY}, or 0 for the default", brief(value))
    return {} if value == 0 else {"priority": value - 1}


def _deadline(timeout: Any, deadline_too: bool) -> dict[str, Any]:
    """Triton's timeout: in microseconds, and 0 is none."""
    timeout = whole(timeout)
    if type(timeout) is not int or not 0 <= timeout <= _MAX_TIMEOUT:
        refuse("timeout", f"a whole number of microseconds, at most {_MAX_TIMEOUT} (an hour)", brief(timeout))
    if timeout == 0:
        return {}
    if deadline_too:
        refuse("timeout", "either it or deadline_ms", "both")
    return {"deadline_ms": timeout / 1000}
