"""The command line of `sorl-drive`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from sorl_client import episodes, parameters
from sorl_client.parameters import Real, Whole

DESCRIPTION = """\
Drive a simulated robot of OGBench by a policy server, and report success, latency and jerk.

Every control tick sends the observation to POST /act and applies the reply. A late reply is applied late (the
simulation waits), and a tick whose deadline is exceeded holds (zero action). Both count as deadline misses. The limit
is --deadline-ms, or the control period if there is none.

With --execute, and for policies that answer with chunks, the simulation waits for the first reply of an episode and for
nothing after it, as a robot does not: a ControlLoop has an action at every tick, and asks for the next chunk while one
runs. A tick without a planned action repeats the last one, and counts as a miss.

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
    add(
        "--temperature",
        type=_number(parameters.TEMPERATURE),
        help="scale of the noise, 0 to 2 (default: the policy's)",
    )
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
