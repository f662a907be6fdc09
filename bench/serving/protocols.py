"""Section protocols: closed-loop requests/s and latency of our server, by protocol."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import replace
from typing import Any

import numpy as np

from bench.closedloop import ClosedLoad, Figures, ask_once, measure
from bench.process import ServerProcess, addresses
from bench.protocols import Ask, ProtocolName, ServerAddress, installed, left_out
from bench.serving.check import WrongAnswer
from bench.serving.setup import Setup

BUDGETS = [(1, 1), (32, 4)]
TURNS = 8
"""Turns of each protocol in a round, at each number of clients; they share the setting `seconds`."""
BASE: ProtocolName = "http-json"
SEED = 7

Place = tuple[tuple[int, int], int]
"""(N, M), clients."""
Turns = dict[ProtocolName, list[Figures]]


def run(setup: Setup) -> dict[str, Any]:
    """Measure every protocol that is installed on the same server, a new one each round.

    "rows" have medians over all turns, and "turns" have each of them. "x http-json" is the median of the turns' ratios
    of requests/s.

    Raises:
        ValueError: none of our servers takes part.
        WrongAnswer: a protocol's action is not that of the others, to the bit.
    """
    names = installed()
    ours = next((contestant for contestant in setup.contestants if contestant.ours), None)
    if ours is None:
        raise ValueError("servers: protocols needs one of our servers, because peers have POST /act only")
    ports = {"groot": "--zmq-port", "open-inference-grpc": "--grpc-port"}
    flags = [part for name, flag in ports.items() if name in names for part in (flag, "0")]
    ours = replace(ours, flags=(*ours.flags, *flags))
    found: dict[Place, Turns] = {}
    for _ in range(setup.config.rounds):
        with ours.serving(setup.model, setup.body(1, 1)) as server:
            for place, turns in _round(setup, server, names).items():
                of_place = found.setdefault(place, {name: [] for name in names})
                for name in names:
                    of_place[name] += turns[name]
    return {
        "server": ours.name,
        "left out": left_out(),
        "rows": [_row(name, place, turns) for place, turns in found.items() for name in names],
        "turns": [turn for place, turns in found.items() for name in names for turn in _turns(name, place, turns)],
    }


def _round(setup: Setup, server: ServerProcess, names: tuple[ProtocolName, ...]) -> dict[Place, Turns]:
    at, config = addresses(server), setup.config
    seen = np.array(setup.fields()["observation"], np.float32)
    found: dict[Place, Turns] = {}
    for budget in BUDGETS:
        ask = Ask(setup.policy.spec.name, seen, *budget, SEED)
        compare(at, ask, names)
        for clients in config.connections:
            found[budget, clients] = measure(
                ClosedLoad(names, at, ask, clients, config.seconds / TURNS, TURNS, server.pid)
            )
    return found


def compare(at: ServerAddress, ask: Ask, names: tuple[ProtocolName, ...]) -> None:
    """Ask once in each of the protocols.

    Raises:
        WrongAnswer: an error, or an action that differs in any bit from that in JSON.
    """
    replies = {name: asyncio.run(ask_once(name, at, ask)) for name in names}
    expected = np.asarray(replies[BASE].fields.get("action"), np.float64)
    for name, reply in replies.items():
        action = reply.fields.get("action")
        if reply.status != 200 or not np.array_equal(np.asarray(action, np.float64), expected):
            raise WrongAnswer(f"{name}: expected status 200 and {expected.tolist()}, found {reply.status} and {reply}")


def _row(name: ProtocolName, place: Place, turns: Turns) -> dict[str, Any]:
    found, base = turns[name], turns[BASE]
    ratios = [figures["requests/s"] / of_base["requests/s"] for figures, of_base in zip(found, base, strict=True)]
    medians = {column: statistics.median(figures[column] for figures in found) for column in found[0]}
    failed = int(sum(figures["failed"] for figures in found))
    return {**_where(name, place), **medians, "failed": failed, f"x {BASE}": statistics.median(ratios)}


def _turns(name: ProtocolName, place: Place, turns: Turns) -> list[dict[str, Any]]:
    """Figures of each turn of a protocol; rounds and turns count from 0."""
    where = _where(name, place)
    return [{**where, "round": i // TURNS, "turn": i % TURNS, **figures} for i, figures in enumerate(turns[name])]


def _where(name: ProtocolName, place: Place) -> dict[str, Any]:
    (n, m), clients = place
    return {"protocol": name, "(N,M)": f"({n},{m})", "clients": clients}
