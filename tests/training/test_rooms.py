"""Import rules inside `training`: which room may import which, and how deep imports go."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.rooms import above, breaches, longest_chain

# What a room with a command needs: its config's ranges and its command line.
COMMAND = {"arguments", "ranges"}

# A room is a folder, or a module directly in `training`; it imports the rooms named here and no others.
ARROWS: dict[str, set[str]] = {
    "files": set(),
    "arguments": set(),
    "ranges": set(),
    "signals": set(),
    "tasks": set(),
    "revision": set(),
    "unmeasured": set(),
    "config": {"ranges"},
    "batch": set(),
    "episodes": set(),
    "reporting": set(),
    "logs": {"files"},
    "plotting": {"files"},
    "episode_table": {"episodes", "files"},
    "data": COMMAND | {"batch", "files", "signals", "tasks"},
    "losses": {"batch"},
    "prefixes": {"batch"},
    "next_actions": {"files"},
    "learner": {"batch", "config", "losses"},
    "start_from": {"learner"},
    "trainer": {"batch", "config", "data", "files", "learner", "losses", "next_actions", "prefixes", "revision"}
    | {"start_from", "unmeasured"},
    "train": {"arguments", "config", "data", "files", "logs", "signals", "trainer"},
    "evaluation": COMMAND | {"config", "episode_table", "episodes", "files", "signals", "tasks"},
    "domains": COMMAND | {"config", "evaluation", "files", "reporting"},
    "results": COMMAND | {"episode_table", "episodes", "evaluation", "files", "logs", "plotting", "reporting"},
    "release": COMMAND
    | {"batch", "config", "data", "files", "learner", "losses", "reporting", "results", "tasks"}
    | {"unmeasured"},
    "sweep": COMMAND
    | {"config", "data", "episode_table", "evaluation", "files", "logs", "reporting", "signals", "tasks", "train"},
}
DEEPEST = 10


def test_rooms_import_along_the_arrows() -> None:
    assert breaches("training", ARROWS) == []


def test_no_room_imports_one_above_it() -> None:
    assert above(ARROWS) == []


def test_the_longest_chain_of_imports_is_short() -> None:
    chain = longest_chain("training")
    assert len(chain) <= DEEPEST, " -> ".join(chain)


@pytest.mark.parametrize(
    ("room", "absent"),
    [
        ("data", {"torch", "ogbench", "h5py", "minari"}),
        ("logs", {"torch", "tensorboard"}),
        ("evaluation", {"ogbench", "matplotlib", "scipy"}),
        ("results", {"ogbench", "matplotlib", "scipy", "tensorboard"}),
        ("learner", {"gymnasium", "ogbench", "tyro"}),
    ],
)
def test_a_room_does_not_load_what_it_may_not_need(room: str, absent: set[str]) -> None:
    script = f"import sys, training.{room}; print(*({absent!r} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
