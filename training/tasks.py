"""`make_task`: the environment of a single task of OGBench, or an error that names the tasks it may have meant."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium

LOCOMOTION = ("maze", "soccer")
DATA_KINDS = {"navigate": LOCOMOTION, "stitch": LOCOMOTION, "explore": ("antmaze",), "play": (), "noisy": ()}
"""Kind of data -> words of the environments that have it; () for manipulation. A task's name says the kind; OGBench's
registry of environments does not."""


class UnknownTask(ValueError):
    """OGBench has no such task; the message names similar ones."""


def make_task(task: str) -> Any:
    """The environment of `task`, e.g. "cube-single-play-singletask-task2-v0"; see `sorl_client.episodes.make_env`.

    Raises:
        UnknownTask: OGBench cannot make it.
    """
    from sorl_client.episodes import make_env

    try:
        # OGBench takes any word for the kind of data.
        if "-singletask" in task and not DATA_KINDS.keys() & set(task.split("-")):
            raise gymnasium.error.UnregisteredEnv
        return make_env(task)
    except gymnasium.error.UnregisteredEnv:
        why = ""
    except Exception as error:  # parsers of names raise all kinds of errors
        why = f" ({error})"
    raise UnknownTask(f"OGBench has no task {task!r}{why}; {suggestion(task)}")


def suggestion(task: str) -> str:
    """Names of single tasks that are similar to `task`, as a question; or the form of a name."""
    names = single_tasks()
    near = difflib.get_close_matches(task, names, n=3, cutoff=0.6)
    if task and not near:
        near = [name for name in names if name.startswith(task)][:3]
    return f"did you mean {' or '.join(near)}?" if near else "names are like cube-single-play-singletask-task2-v0"


def single_tasks() -> list[str]:
    """Every single task on vector observations, with every kind of data that its environment has."""
    import ogbench  # noqa: F401  registers its environments

    names = []
    for name in gymnasium.registry:
        environment, marker, task = name.partition("-singletask-task")
        if not marker or "visual" in environment:
            continue
        locomotion = any(word in environment for word in LOCOMOTION)
        for kind, words in DATA_KINDS.items():
            if any(word in environment for word in words) if words else not locomotion:
                names.append(f"{environment}-{kind}{marker}{task}")
    return names
