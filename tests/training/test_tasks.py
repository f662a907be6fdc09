"""A task that OGBench does not know is answered with similar ones, by every command."""

from __future__ import annotations

import pytest

from training.tasks import UnknownTask, make_task, single_tasks


def test_every_kind_of_data_of_an_environment_is_known() -> None:
    names = single_tasks()
    assert len(set(names)) == len(names)
    for name in (
        "antmaze-large-explore-singletask-task1-v0",
        "antsoccer-arena-stitch-singletask-task5-v0",
        "cube-single-play-singletask-task2-v0",
        "pointmaze-medium-navigate-singletask-task1-v0",
        "scene-noisy-singletask-task2-v0",
    ):
        assert name in names
    assert not [name for name in names if "pointmaze-medium-explore" in name or "visual" in name]


@pytest.mark.parametrize(
    ("task", "meant"),
    [
        ("cube-singel-play-singletask-task2-v0", "did you mean cube-single-play-singletask-task2-v0 or "),
        ("cube-single-pley-singletask-task2-v0", "did you mean cube-single-play-singletask-task2-v0 or "),
        ("cube-single-singletask-task2-v0", "did you mean cube-single-play-singletask-task2-v0 or "),
        ("cube_single_play_singletask_task2_v0", "did you mean cube-single-play-singletask-task2-v0 or "),
        ("cube-single-play-singletask-task9-v0", "did you mean cube-single-play-singletask-task"),
        ("scene", "did you mean scene-"),
        ("my-robot", "names are like cube-single-play-singletask-task2-v0$"),
        ("", r"\(Malformed environment ID.*names are like"),
    ],
)
def test_similar_tasks_are_named(task: str, meant: str) -> None:
    with pytest.raises(UnknownTask, match=f"^OGBench has no task {task!r}.*{meant}") as raised:
        make_task(task)
    assert "\n" not in str(raised.value)
