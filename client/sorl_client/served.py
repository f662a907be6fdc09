"""`Served`: what a control loop has to know of its model; and which entry of GET /models is meant without a name."""

from __future__ import annotations

from typing import Any, NamedTuple

from sorl_client import parameters
from sorl_client.errors import InvalidArgument, InvalidReply


class Served(NamedTuple):
    """What a loop needs of a model's entry: the control rate in Hz, and the actions' width and number."""

    hz: float
    width: int
    action_horizon: int

    @classmethod
    def of(cls, models: list[dict[str, Any]], name: str | None) -> Served:
        """Of the entry that `find` finds. Raises InvalidArgument naming `model` if there is none, InvalidReply for an
        entry without a rate or width."""
        entry = find(models, name)
        if entry is None:
            expected = f"one of those served: {names(models)}"
            found = f"{name!r}" if name is not None or not models else "None, and none is the default"
            raise InvalidArgument(f"model: expected {expected}; found {found}", field="model")
        try:
            return cls(
                parameters.HZ("control_hz", entry.get("control_hz")),
                parameters.AT_LEAST_ONE("action_dim", entry.get("action_dim")),
                parameters.AT_LEAST_ONE("action_horizon", entry.get("action_horizon", 1)),
            )
        except InvalidArgument as error:
            raise InvalidReply(f"model {entry['name']!r}: {error.detail}") from error


def find(models: list[dict[str, Any]], name: str | None) -> dict[str, Any] | None:
    """The entry called `name`. Without a name: the server's default, or the only one. None: no entry, or several."""
    if name is None:
        found = [model for model in models if model.get("default") is True] or models
    else:
        found = [model for model in models if model["name"] == name]
    return found[0] if len(found) == 1 else None


def names(models: list[dict[str, Any]]) -> str:
    """The names of `models`, for people."""
    return ", ".join(str(model["name"]) for model in models) or "none"
