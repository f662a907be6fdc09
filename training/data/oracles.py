"""Scripted data collection: one episode of an OGBench environment, driven by the oracle that ships with `ogbench`.

An episode is a pure function of the task, the dataset's seed and the episode's number. Two random streams are in use:
numpy's global one, which oracles and mazes read, and the environment's. Both are seeded per episode, so that neither
the order of episodes nor the number of worker processes changes the data. The protocol (noise levels, stacking
probabilities, the health check of scene) is that of OGBench's public generation scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from sorl_client.episodes import keep_action_space, quiet_simulator

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """How the data of one environment is collected."""

    env_id: str
    dataset_name: str
    collect: Callable[[gymnasium.Env, Task], Arrays]
    stack_probability: tuple[float, float] = (0.0, 0.0)  # range; one value is drawn uniformly per episode
    oracles: tuple[str, ...] = ()
    gripper_always_closed: bool = False  # of the button's oracle, where there is nothing to grasp
    cubes: int = 0  # the first joints after the arm's, seven numbers of qpos each
    healthy: Callable[[Arrays], bool] = lambda episode: True
    env_kwargs: tuple[tuple[str, Any], ...] = ()
    episodes: int = 1000  # of the training file of OGBench's own data; its validation file has a tenth as many

    def make_env(self, episode_steps: int) -> gymnasium.Env:
        """The environment, with episodes of `episode_steps` steps that do not end at the goal."""
        with quiet_simulator():
            import ogbench.locomaze
            import ogbench.manipspace  # noqa: F401

            env: gymnasium.Env = gymnasium.make(
                self.env_id,
                terminate_at_goal=False,
                max_episode_steps=episode_steps,
                disable_env_checker=True,
                **dict(self.env_kwargs),
            )
            keep_action_space(env)
        return env


def collect_episode(task: Task, env: gymnasium.Env, seed: int, episode: int) -> Arrays:
    """One healthy episode of `task`: observations, actions, terminals, qpos, qvel; button_states where it has buttons.

    Args:
        env: from `task.make_env`; its earlier episodes have no effect.
        seed: the dataset's seed.
        episode: the episode's number within the dataset.
    """
    for attempt in _count():
        words = np.random.SeedSequence(seed, spawn_key=(episode, attempt)).generate_state(2)
        np.random.seed(words[0])
        env.unwrapped.action_space.seed(int(words[1]))
        env.unwrapped.np_random = np.random.default_rng(words)
        arrays = task.collect(env, task)
        if task.healthy(arrays):
            return arrays
    raise AssertionError("unreachable")


def _count() -> Iterator[int]:
    attempt = 0
    while True:
        yield attempt
        attempt += 1


class _Recorder:
    """Rows of one episode, with the keys and dtypes of OGBench's files."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Any]] = {}

    def add(self, observation: np.ndarray, action: np.ndarray, done: bool, info: dict[str, Any]) -> None:
        row = {
            "observations": observation,
            "actions": action,
            "terminals": done,
            "qpos": info["prev_qpos"],
            "qvel": info["prev_qvel"],
        }
        if "prev_button_states" in info:
            row["button_states"] = info["prev_button_states"]
        for key, value in row.items():
            self._rows.setdefault(key, []).append(value)

    def arrays(self) -> Arrays:
        dtypes = {"terminals": np.bool_, "button_states": np.int64}
        return {key: np.array(rows, dtype=dtypes.get(key, np.float32)) for key, rows in self._rows.items()}


def _collect_play(env: gymnasium.Env, task: Task, noise: float = 0.1, noise_smoothing: float = 0.5) -> Arrays:
    """Manipulation: oracles pick up, place, press and slide; each finished plan is followed by a new random target."""
    settings = {"env": env, "noise": noise, "noise_smoothing": noise_smoothing}
    agents = {name: _plan_oracle(name, task)(**settings) for name in task.oracles}
    base: Any = env.unwrapped
    observation, info = env.reset()
    stack_probability = np.random.uniform(*task.stack_probability)
    agent = agents[info["privileged/target_task"]]
    agent.reset(observation, info)
    rows = _Recorder()
    done = False
    while not done:
        action = np.clip(np.array(agent.select_action(observation, info)), -1, 1)
        next_observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        if agent.done:
            target_observation, target_info = base.set_new_target(p_stack=stack_probability)
            agent = agents[target_info["privileged/target_task"]]
            agent.reset(target_observation, target_info)
        rows.add(observation, action, done, info)
        observation = next_observation
    return rows.arrays()


def _plan_oracle(name: str, task: Task) -> Callable[..., Any]:
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    oracles: dict[str, Callable[..., Any]] = {
        "cube": cube_plan.CubePlanOracle,
        "button": partial(button_plan.ButtonPlanOracle, gripper_always_closed=task.gripper_always_closed),
        "drawer": drawer_plan.DrawerPlanOracle,
        "window": window_plan.WindowPlanOracle,
    }
    return oracles[name]


def _collect_navigate(env: gymnasium.Env, task: Task, noise: float = 0.5) -> Arrays:
    """Point maze: noisy steps towards the maze's breadth-first subgoal; each reached goal is followed by a new one."""
    maze: Any = env.unwrapped
    cells = [(int(i), int(j)) for i, j in np.argwhere(maze.maze_map == 0)]
    corners = [cell for cell in cells if not _in_hallway(maze.maze_map, *cell)]

    def draw(options: list[tuple[int, int]]) -> tuple[int, int]:
        return options[np.random.randint(len(options))]

    observation, _ = env.reset(options={"task_info": {"init_ij": draw(cells), "goal_ij": draw(corners)}})
    rows = _Recorder()
    done = False
    while not done:
        subgoal, _ = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)
        direction = subgoal - maze.get_xy()
        direction = direction / (np.linalg.norm(direction) + 1e-6)
        action = np.clip(direction + np.random.normal(0, noise, direction.shape), -1, 1)
        next_observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        if info["success"]:
            maze.set_goal(draw(corners))
        rows.add(observation, action, done, info)
        observation = next_observation
    return rows.arrays()


def _in_hallway(maze_map: np.ndarray, i: int, j: int) -> bool:
    """Free on two opposite sides and walled on the other two. OGBench's protocol places no goal there."""
    vertical = (maze_map[i - 1, j], maze_map[i + 1, j])
    horizontal = (maze_map[i, j - 1], maze_map[i, j + 1])
    return (vertical, horizontal) in (((0, 0), (1, 1)), ((1, 1), (0, 0)))


def _cube_visible_or_in_drawer(episode: Arrays) -> bool:
    """Scene: the cube is never too far right (y >= 0.29), nor too far left (y <= -0.3) outside the drawer."""
    y, z = episode["qpos"][:, 15], episode["qpos"][:, 16]
    outside_drawer = (z < 0.06) | (z > 0.08)
    return not ((y >= 0.29).any() or ((y <= -0.3) & outside_drawer).any())


_COLLECTION = (("mode", "data_collection"),)


def _puzzle(size: str) -> Task:
    return Task(
        f"puzzle-{size}-v0",
        f"puzzle-{size}-play-v0",
        _collect_play,
        oracles=("button",),
        gripper_always_closed=True,
        env_kwargs=_COLLECTION,
    )


TASKS: dict[str, Task] = {
    "pointmaze-medium": Task("pointmaze-medium-v0", "pointmaze-medium-navigate-v0", _collect_navigate),
    "pointmaze-large": Task("pointmaze-large-v0", "pointmaze-large-navigate-v0", _collect_navigate),
    "cube-single": Task(
        "cube-single-v0", "cube-single-play-v0", _collect_play, (0.0, 0.0), ("cube",), cubes=1, env_kwargs=_COLLECTION
    ),
    "cube-double": Task(
        "cube-double-v0", "cube-double-play-v0", _collect_play, (0.0, 0.25), ("cube",), cubes=2, env_kwargs=_COLLECTION
    ),
    "cube-triple": Task(
        "cube-triple-v0",
        "cube-triple-play-v0",
        _collect_play,
        (0.05, 0.35),
        ("cube",),
        cubes=3,
        env_kwargs=_COLLECTION,
        episodes=3000,
    ),
    "scene": Task(
        "scene-v0",
        "scene-play-v0",
        _collect_play,
        (0.5, 0.5),
        ("cube", "button", "drawer", "window"),
        cubes=1,
        healthy=_cube_visible_or_in_drawer,
        env_kwargs=_COLLECTION,
    ),
    "puzzle-3x3": _puzzle("3x3"),
    "puzzle-4x4": _puzzle("4x4"),
}
