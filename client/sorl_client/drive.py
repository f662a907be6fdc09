"""`sorl-drive`: drive a simulated robot with actions from POST /act."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any, get_args

from sorl_client import episodes, report, served
from sorl_client.client import Client
from sorl_client.control import Ask, Episode, run_episode, run_in_loop
from sorl_client.control_loop import ControlLoop
from sorl_client.delayed_link import DelayedLink
from sorl_client.drive_options import parser
from sorl_client.errors import InvalidArgument, SorlError


class CannotDrive(Exception):
    """The task and the server's model do not fit. The message is one line for people."""


def main(argv: Sequence[str] | None = None, make_env: Callable[[str], Any] = episodes.make_env) -> int:
    """Run the command; returns its exit status. `make_env` builds the environment of a task."""
    arguments = parser().parse_args(argv)
    try:
        return drive(arguments, make_env)
    except ImportError as error:
        print(f"sorl-drive: {error}: driving needs OGBench, pip install 'sorl-client[drive]'", file=sys.stderr)
        return 2
    except (SorlError, CannotDrive, OSError) as error:
        print(f"sorl-drive: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sorl-drive: interrupted", file=sys.stderr)
        return 130


def drive(arguments: argparse.Namespace, make_env: Callable[[str], Any]) -> int:
    """Connect, check that task and model fit, drive all episodes and report. Returns the exit status.

    Raises CannotDrive or SorlError.
    """
    check_loop(arguments)
    policies = list(get_args(episodes.SeedPolicy)) if arguments.compare_seed_policies else [arguments.seed_policy]
    with ExitStack() as stack:
        try:
            url = arguments.url
            if arguments.latency_ms:
                url = stack.enter_context(DelayedLink(url, arguments.latency_ms)).url
            client = stack.enter_context(Client(url, api_key=arguments.api_key))
        except ValueError as error:
            raise CannotDrive(str(error)) from error
        client.wait_until_ready(arguments.wait_s)
        model = choose_model(client.models(), arguments.model)
        if in_loop(arguments, model) and not arguments.realtime:
            raise CannotDrive(f"model {model['name']!r} answers with chunks, in real time: leave out --no-realtime")
        env = build_env(arguments.task, make_env)
        try:
            check_fit(env, model, arguments.task)
            hz = episodes.control_hz(env)
            print(
                f"{arguments.task} at {hz:g} Hz, model {model['name']} at {arguments.url}, "
                f"{'in real time' if arguments.realtime else 'as fast as it answers'}"
            )
            with loaded_objects_frozen():
                driven = {policy: drive_episodes(env, client, model, arguments, policy, hz) for policy in policies}
        finally:
            env.close()
    summaries = [report.summarise(policy, driven[policy], hz) for policy in policies]
    if arguments.compare_seed_policies:
        print(report.side_by_side(driven["step"], driven["episode"], hz))
    else:
        print(summaries[0].text())
    if arguments.json is not None:
        document = {
            "task": arguments.task,
            "url": arguments.url,
            "model": model["name"],
            "model_version": next((x.model_version for x in driven[policies[0]] if x.model_version), None),
            "engine": next((x.engine for x in driven[policies[0]] if x.engine), None),
            "control_hz": hz,
            "realtime": arguments.realtime,
            "latency_ms": arguments.latency_ms,
            "execute": arguments.execute,
            "commit": arguments.commit,
            "first_episode": arguments.seed,
            "ask": asdict(ask_of(arguments, model)),
            "jerk_unit": report.JERK_UNIT,
            "drives": [
                asdict(summary) | {"per_episode": [report.as_json(x, hz) for x in driven[summary.seed_policy]]}
                for summary in summaries
            ],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    fewest = min(summary.successes for summary in summaries)
    if fewest < arguments.require_successes:
        print(f"sorl-drive: {fewest} successes, {arguments.require_successes} required", file=sys.stderr)
        return 1
    return 0


@contextmanager
def loaded_objects_frozen() -> Iterator[None]:
    """Context manager: garbage collection leaves out what is there by now.

    With a simulator that is 100,000 objects, which a full collection went through for 56 ms: a miss at 20 Hz.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def drive_episodes(
    env: Any,
    client: Client,
    model: dict[str, Any],
    arguments: argparse.Namespace,
    policy: episodes.SeedPolicy,
    hz: float,
) -> list[Episode]:
    """Drive all episodes of one seed policy, and print a row for each."""
    from tqdm import tqdm

    ask = ask_of(arguments, model)
    driven = []
    print(f"\nseed policy {policy!r}\n{report.HEADER}")
    # disable=None shows the progress bar on terminals only; logs and pipes get just the table.
    with tqdm(total=arguments.episodes, unit="episode", disable=None, leave=False) as progress:
        for seeds in episodes.seeds(arguments.seed, arguments.episodes, policy):
            if in_loop(arguments, model):
                with control_loop(client, model, ask, arguments, hz) as loop:
                    driven.append(run_in_loop(env, loop, seeds, max_steps=arguments.max_steps))
            else:
                driven.append(
                    run_episode(env, client, seeds, ask, realtime=arguments.realtime, max_steps=arguments.max_steps)
                )
            progress.write(report.row(driven[-1], hz))
            progress.update()
    print()
    return driven


def in_loop(arguments: argparse.Namespace, model: dict[str, Any]) -> bool:
    """Whether a ControlLoop drives, and the simulation waits for the first reply only."""
    return arguments.execute is not None or model.get("action_horizon", 1) > 1


def control_loop(
    client: Client, model: dict[str, Any], ask: Ask, arguments: argparse.Namespace, hz: float
) -> ControlLoop:
    """The loop of one episode. Raises CannotDrive for an --execute beyond the chunk."""
    horizon = model.get("action_horizon", 1)
    try:
        return ControlLoop(
            client,
            ask,
            hz=hz,
            action_horizon=horizon,
            execute=arguments.execute,
            ahead=arguments.ahead,
            commit=arguments.commit,
            initial=[0.0] * model["action_dim"],
        )
    except InvalidArgument as error:
        raise CannotDrive(f"--{(error.field or '').replace('_', '-')}: {error.detail.partition(': ')[2]}") from error


def check_loop(arguments: argparse.Namespace) -> None:
    """Raise CannotDrive for options that only make sense together."""
    if arguments.execute is not None and not arguments.realtime:
        raise CannotDrive("--execute drives in real time: leave out --no-realtime")
    if arguments.ahead is not None and arguments.execute is None:
        raise CannotDrive("--ahead: add --execute")


def ask_of(arguments: argparse.Namespace, model: dict[str, Any]) -> Ask:
    """The request arguments of every tick, from the command line."""
    return Ask(
        model=model["name"],
        num_candidates=arguments.num_candidates,
        num_steps=arguments.num_steps,
        deadline_ms=arguments.deadline_ms,
        on_late=arguments.on_late,
        min_quality=arguments.min_quality,
        temperature=arguments.temperature,
        coherence=arguments.coherence,
    )


def choose_model(models: list[dict[str, Any]], name: str | None) -> dict[str, Any]:
    """The model called `name`; if that is None, the server's default one, or the only one. Raises CannotDrive if there
    is none, or several of which none is the default."""
    found = served.find(models, name)
    if found is not None:
        return found
    if name is not None:
        raise CannotDrive(f"no model {name!r} here; served: {served.names(models)}")
    if not models:
        raise CannotDrive("the server serves no model")
    raise CannotDrive(f"choose one of several models with --model: {served.names(models)}")


def build_env(task: str, make_env: Callable[[str], Any]) -> Any:
    """The environment of `task`; raises CannotDrive if there is none, ImportError if OGBench is not installed."""
    try:
        return make_env(task)
    except ImportError:
        raise
    except Exception as error:  # OGBench raises various errors for names it can't parse
        raise CannotDrive(f"cannot make the environment of task {task!r}: {error}") from error


def check_fit(env: Any, model: dict[str, Any], task: str) -> None:
    """Raise CannotDrive unless the model takes this robot's observations and gives its actions."""
    for what, space in (("obs_dim", env.observation_space), ("action_dim", env.action_space)):
        if model.get(what) != space.shape[0]:
            raise CannotDrive(
                f"model {model['name']!r} has {what} {model.get(what)}, but task {task!r} has {space.shape[0]}"
            )
