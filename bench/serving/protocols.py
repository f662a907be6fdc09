"""Section protocols: closed-loop requests/s and latency of our server, by protocol."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from bench.closedloop import ClosedLoad, ask_once, measure
from bench.process import ServerProcess, addresses
from bench.protocols import Ask, ProtocolName, ServerAddress, require
from bench.serving.check import WrongAnswer
from bench.serving.setup import Setup

BUDGETS = [(1, 1), (32, 4)]
NAMES: tuple[ProtocolName, ...] = get_args(ProtocolName)
BASE: ProtocolName = "http-json"
SEED = 7

Place = tuple[ProtocolName, tuple[int, int], int]
"""Protocol, (N, M), clients."""
Figures = dict[str, float]


def run(setup: Setup) -> dict[str, Any]:
    """Measure every protocol on the same server, a new one each round; rows have medians over the rounds.

    Protocols alternate within a round, in turned order in every second one: "x http-json" is the median of the rounds'
    ratios of requests/s.

    Raises:
        ValueError: none of our servers takes part, or pyzmq is not installed.
        WrongAnswer: a protocol's action is not that of the others, to the bit.
    """
    require(NAMES)
    ours = next((contestant for contestant in setup.contestants if contestant.ours), None)
    if ours is None:
        raise ValueError("servers: protocols needs one of our servers, because peers have POST /act only")
    ours = replace(ours, flags=(*ours.flags, "--zmq-port", "0"))
    rounds: list[dict[Place, Figures]] = []
    for number in range(setup.config.rounds):
        with ours.serving(setup.model, setup.body(1, 1)) as server:
            rounds.append(_round(setup, server, NAMES if number % 2 == 0 else NAMES[::-1]))
    places = [(name, budget, clients) for budget in BUDGETS for clients in setup.config.connections for name in NAMES]
    return {"server": ours.name, "rows": [_row(place, rounds) for place in places]}


def _round(setup: Setup, server: ServerProcess, names: tuple[ProtocolName, ...]) -> dict[Place, Figures]:
    at = addresses(server)
    found: dict[Place, Figures] = {}
    for budget in BUDGETS:
        seen = np.array(setup.fields()["observation"], np.float32)
        ask = Ask(setup.policy.spec.name, seen, *budget, SEED)
        compare(at, ask)
        for clients in setup.config.connections:
            for name in names:
                load = ClosedLoad(name, at, ask, clients, setup.config.seconds, server.pid)
                found[name, budget, clients] = measure(load)
    return found


def compare(at: ServerAddress, ask: Ask) -> None:
    """Ask once in every protocol.

    Raises:
        WrongAnswer: an error, or an action that differs in any bit from that in JSON.
    """
    replies = {name: asyncio.run(ask_once(name, at, ask)) for name in NAMES}
    expected = np.asarray(replies[BASE].fields.get("action"), np.float64)
    for name, reply in replies.items():
        action = reply.fields.get("action")
        if reply.status != 200 or not np.array_equal(np.asarray(action, np.float64), expected):
            raise WrongAnswer(f"{name}: expected status 200 and {expected.tolist()}, found {reply.status} and {reply}")


def _row(place: Place, rounds: list[dict[Place, Figures]]) -> dict[str, Any]:
    name, (n, m), clients = place
    found = [figures[place] for figures in rounds]
    base = [figures[BASE, (n, m), clients]["requests/s"] for figures in rounds]
    ratios = [figures["requests/s"] / of_base for figures, of_base in zip(found, base, strict=True)]
    medians = {column: statistics.median(figures[column] for figures in found) for column in found[0]}
    failed = int(sum(figures["failed"] for figures in found))
    row = {"protocol": name, "(N,M)": f"({n},{m})", "clients": clients, **medians, "failed": failed}
    return {**row, f"x {BASE}": statistics.median(ratios)}
