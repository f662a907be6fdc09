"""`sorl-drive`: drive a simulated robot with actions from POST /act."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from sorl_client import episodes, parameters, report, served
from sorl_client.client import Client
from sorl_client.control import Ask, Episode, run_episode, run_in_loop
from sorl_client.control_loop import ControlLoop
from sorl_client.delayed_link import DelayedLink
from sorl_client.errors import InvalidArgument, SorlError
from sorl_client.parameters import Real, Whole

DESCRIPTION = """\
Drive a simulated robot of OGBench by a policy server, and report success, latency and jerk.

Every control tick sends the observation to POST /act and applies the reply. A late reply is applied late (the
simulation waits), and a tick whose deadline is exceeded holds (zero action). Both count as deadline misses. The limit
is --deadline-ms, or the control period if there is none.

With --execute, and for policies that answer with chunks, the simulation waits for nothing, as a robot does not: a
ControlLoop has an action at every tick, and asks for the next chunk while one runs. A tick without a planned action
repeats the last one, and counts as a miss.

Leaving --num-candidates and --num-steps out takes the policy's default budget, the best measured. More of either can
measure worse: GET /models marks such budgets as dominated."""

EPILOG = """\
examples:
  sorl-drive http://127.0.0.1:8000
      ten episodes of the default task in real time, with the policy's default budget
  sorl-drive http://127.0.0.1:8000 --deadline-ms 20 --json drive.json
      the server computes as much as fits into 20 ms for every action
  sorl-drive http://127.0.0.1:8000 --no-realtime --num-candidates 16 --num-steps 8 --compare-seed-policies
      compare fresh noise at every tick with one noise per episode: success and jerk, on the same episodes
  sorl-drive http://127.0.0.1:8000 --latency-ms 100 --execute 3
      a policy of chunks behind a network of 100 ms: execute three actions of each chunk
  sorl-drive http://127.0.0.1:8000 --no-realtime --require-successes 8
      a check for CI: exit status 1 if fewer than 8 of 10 episodes succeed

exit status: 0 done; 1 fewer successes than --require-successes; 2 could not run; 130 interrupted"""


# A client keeps 1 ms of every deadline back for the network, so it sends nothing with a shorter one. A delay below 1 ms
# is less than timers keep to. Whoever asks for either may have thought in seconds.
DEADLINE_MS = Real(1, parameters.LONGEST_DEADLINE_MS, above=True, unit=parameters.MS)
LATENCY_MS = Real(1, parameters.LONGEST_DEADLINE_MS, unit=parameters.MS)


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
        env = build_env(arguments.task, make_env)
        try:
            check_fit(env, model, arguments.task)
            hz = episodes.control_hz(env)
            print(
                f"{arguments.task} at {hz:g} Hz, model {model['name']} at {arguments.url}, "
                f"{'in real time' if arguments.realtime else 'as fast as it answers'}"
            )
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
    """Whether a ControlLoop drives, and the simulation waits for nothing."""
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="sorl-drive",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("url", nargs="?", default="http://127.0.0.1:8000", help="the policy server (default: %(default)s)")
    add("--task", default="cube-single-play-singletask-task2-v0", help="OGBench task (default: %(default)s)")
    add("--model", help="name of the model (default: the server's default one)")
    add(
        "--episodes",
        type=_number(parameters.AT_LEAST_ONE),
        default=10,
        help="number of episodes (default: %(default)s)",
    )
    add(
        "--seed",
        type=_number(parameters.EPISODE),
        default=0,
        help="seed of the first episode; the next ones follow (default: 0)",
    )
    add(
        "--num-candidates",
        type=_number(parameters.BUDGET),
        metavar="N",
        help="candidate actions per tick (default: the policy's, the best measured)",
    )
    add(
        "--num-steps",
        type=_number(parameters.BUDGET),
        metavar="M",
        help="refinement steps per candidate (default: the policy's, the best measured)",
    )
    add(
        "--deadline-ms",
        type=_number(DEADLINE_MS),
        metavar="MS",
        help="time limit for each action, in milliseconds (default: no deadline)",
    )
    add(
        "--on-late",
        choices=("degrade", "reject"),
        default="degrade",
        help="if N and M do not fit the deadline: compute less, or refuse, which holds (default: %(default)s)",
    )
    add(
        "--min-quality",
        type=_number(parameters.SHARE),
        metavar="SHARE",
        help="with a deadline: the least measured success of what is computed, as a share of the best (N, M)'s; where "
        "there is no time for that, the server refuses, which holds (default: no limit)",
    )
    add(
        "--execute",
        type=_number(parameters.AT_LEAST_ONE),
        metavar="K",
        help="do not wait for replies: a ControlLoop executes K actions of each chunk, and asks for the next meanwhile "
        "(default: of policies with chunks all, of others off)",
    )
    add(
        "--ahead",
        type=_number(parameters.COUNT),
        metavar="TICKS",
        help="with --execute, ask for the next chunk so many ticks before it is due (default: as measured)",
    )
    add(
        "--commit",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with chunks, tell the server which actions are executed until its reply is expected",
    )
    add("--coherence", type=_number(parameters.SHARE), help="weight of that in the choice (default: the policy's)")
    add(
        "--latency-ms",
        type=_number(LATENCY_MS),
        metavar="MS",
        help="relay the connection through a link with this round-trip time, in milliseconds (default: none)",
    )
    add("--temperature", type=_number(parameters.TEMPERATURE), help="scale of the noise, 0 to 2 (default: 1)")
    seeding = result.add_mutually_exclusive_group()
    seeding.add_argument(
        "--seed-policy",
        choices=get_args(episodes.SeedPolicy),
        default="step",
        help="fresh noise at every step, or one noise for the episode, so that best-of-N does not flip between modes "
        "(default: %(default)s)",
    )
    seeding.add_argument(
        "--compare-seed-policies",
        action="store_true",
        help="drive the same episodes with both seed policies, and compare success and jerk",
    )
    add(
        "--realtime",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the environment's control rate, or run as fast as the server replies",
    )
    add(
        "--max-steps",
        type=_number(parameters.AT_LEAST_ONE),
        metavar="STEPS",
        help="longest episode (default: the task's time limit)",
    )
    add(
        "--wait-s",
        type=_number(parameters.TIMEOUT_S),
        default=1.0,
        metavar="S",
        help="wait this long for the server to be ready (default: 1)",
    )
    add(
        "--api-key",
        metavar="KEY",
        default=os.environ.get("SORL_API_KEY"),
        help="the server's API key, if it has one (default: the environment variable SORL_API_KEY)",
    )
    add("--json", type=Path, metavar="FILE", help="also write the results to this file")
    add(
        "--require-successes",
        type=_number(parameters.COUNT),
        default=0,
        metavar="K",
        help="exit with 1 if fewer episodes succeed, under either seed policy",
    )
    return result


def _number(allowed: Whole | Real) -> Callable[[str], float]:
    """The type of an option whose number `allowed` checks."""

    def number(text: str) -> float:
        try:
            return allowed("option", _whole(text) if isinstance(allowed, Whole) else float(text))
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {allowed}; found {parameters.brief(text)}") from None

    return number


def _whole(text: str) -> float:
    """The number that `text` is: an int if it is written as one. Raises ValueError if it is none."""
    try:
        return int(text)
    except ValueError:
        return float(text)
