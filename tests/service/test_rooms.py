"""The arrows inside `service` (docs/architecture.md): which room imports which, and which libraries it knows."""

from __future__ import annotations

import sys

import pytest

from tests.rooms import above, breaches, imports, longest_chain, modules, room_of

# A room is a folder, or a module that lies directly in `service`. From the bottom to the top.
ARROWS: dict[str, set[str]] = {
    # Errors and plain values.
    "errors": set(),
    "timing": set(),
    "sample": set(),
    "settings": set(),
    "lifecycle": {"errors"},
    # What knows nothing of the others beside it.
    "access": {"errors"},
    "protocol": {"errors", "sample"},
    "scheduling": {"errors", "sample", "timing"},
    "budget": {"errors", "sample", "timing"},
    # What is built on them.
    "engine": {"errors", "sample", "timing", "budget"},
    "recording": {"errors", "sample", "protocol"},
    "observability": {"errors", "sample", "timing", "budget", "protocol"},
    "models": {"errors", "settings", "budget", "engine"},
    "answering": {
        "errors", "lifecycle", "sample", "access", "protocol", "scheduling", "models", "observability", "recording"
    },
    "web": {"errors", "lifecycle", "access", "protocol", "scheduling", "budget", "models", "observability"},
    "grpc": {"errors", "lifecycle", "protocol", "models"},
    "zeromq": {"errors", "lifecycle", "access", "protocol", "models"},
    # What puts the parts together.
    "runtime": {
        "errors", "lifecycle", "settings", "access", "scheduling", "engine", "recording", "observability", "models"
    },
    "app": {"settings", "models", "answering", "runtime", "web", "grpc", "zeromq"},
    "server": {"settings", "runtime", "web"},
    "cli": {"settings", "access", "models", "observability", "app", "server"},
}  # fmt: skip

WEB = {"fastapi", "starlette", "uvicorn"}
LIBRARIES: dict[str, set[str]] = {
    "errors": set(),
    "timing": set(),
    "sample": {"kernels", "numpy"},
    "settings": {"pydantic", "pydantic_settings"},
    "lifecycle": set(),
    "protocol": {"numpy", "pydantic", "msgpack"},
    "access": {"pydantic", "kernels"},
    "scheduling": set(),
    "budget": {"numpy", "policy"},
    "engine": {"numpy", "kernels", "policy"},
    "recording": {"numpy", "kernels", "policy"},
    "observability": {"numpy", "prometheus_client", "opentelemetry", "policy"},
    "models": {"numpy", "kernels", "policy"},
    "answering": set(),
    "web": {"prometheus_client", *WEB},
    "grpc": {"grpc", "google"},
    "zeromq": {"zmq"},
    "runtime": {"kernels", "policy"},
    "app": {"fastapi"},
    "server": {"fastapi", "uvicorn"},
    "cli": {"kernels", "policy"},
}
"""What a room imports from outside `service`, beside the standard library. None imports torch."""


def test_every_import_follows_an_arrow() -> None:
    assert breaches("service", ARROWS) == []


def test_no_room_imports_one_above_it() -> None:
    assert above(ARROWS) == []


@pytest.mark.slow
def test_every_arrow_is_needed() -> None:
    """An arrow that no import follows would allow one that nobody has thought about."""
    for room, others in ARROWS.items():
        for other in others:
            fewer = {**ARROWS, room: others - {other}}
            assert breaches("service", fewer), f"no module of {room!r} imports from {other!r}"


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_a_room_knows_its_libraries_only(room: str) -> None:
    found = {
        source.split(".")[0]
        for module, path in modules("service").items()
        if room_of(module) == room
        for source, _ in imports(path)
    }
    assert found - set(sys.stdlib_module_names) - {"service"} == LIBRARIES[room]


def test_chains_of_imports_are_short() -> None:
    assert len(longest_chain("service")) <= 9, longest_chain("service")
