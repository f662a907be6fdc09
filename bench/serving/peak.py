"""Section peak: closed-loop requests/s and latency, by budget and number of clients."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from bench import wrk
from bench.machine import gemm_peak
from bench.serving.setup import Setup
from kernels.threads import available_cores
from policy.flops import flops_of

BUDGETS = [(32, 4), (1, 1)]

Figures = dict[str, float]
Place = tuple[str, int]
"""(N, M) as text, and the number of clients."""


def run(setup: Setup) -> dict[str, Any]:
    """Measure all servers in alternating rounds; rows have medians.

    "of peak" is the rate of matrix products in the replies over the machine's peak rate in bf16 on all cores. HTTP and
    the load generator use some of these cores, too.
    """
    config = setup.config
    machine = 1e9 * gemm_peak(torch.bfloat16, available_cores())
    rounds: list[dict[tuple[str, Place], Figures]] = []
    for _ in range(config.rounds):
        found: dict[tuple[str, Place], Figures] = {}
        for contestant in setup.contestants:
            with contestant.serving(setup.model, setup.body(*BUDGETS[0])) as server:
                for n, m in BUDGETS:
                    for clients in config.connections:
                        wrk.load(server.url, setup.body(n, m), clients, 1)
                        figures = wrk.load(server.url, setup.body(n, m), clients, config.seconds)
                        found[contestant.name, (f"({n},{m})", clients)] = figures
        rounds.append(found)
    places = [(f"({n},{m})", clients) for n, m in BUDGETS for clients in config.connections]
    peers = [contestant.name for contestant in setup.contestants if not contestant.ours]
    flops = flops_of(setup.policy.spec)
    rows = []
    for (n, m), place in zip([budget for budget in BUDGETS for _ in config.connections], places, strict=True):
        work = n * (m * flops.actor_row + flops.critic_row) + flops.actor_observation + flops.critic_observation
        for contestant in setup.contestants:
            row = _row(contestant.name, place, peers, rounds)
            rows.append({**row, "of peak": row["requests/s"] * work / machine})
    return {"gemm_peak_gflops": machine / 1e9, "rows": rows}


def _row(name: str, place: Place, peers: list[str], rounds: list[dict[tuple[str, Place], Figures]]) -> dict[str, Any]:
    found = [figures[name, place] for figures in rounds]
    ratios = None
    if peers and name not in peers:  # ratios per round, because a shared machine's speed drifts from round to round
        ratios = [
            _rate(figures[name, place]) / max(1e-9, *(_rate(figures[peer, place]) for peer in peers))
            for figures in rounds
        ]
    return {
        "server": name,
        "(N,M)": place[0],
        "clients": place[1],
        "requests/s": statistics.median(map(_rate, found)),
        "p50 ms": statistics.median(figures["p50_ms"] for figures in found),
        "p99 ms": statistics.median(figures["p99_ms"] for figures in found),
        "x best peer": None if ratios is None else statistics.median(ratios),
        "failed": int(sum(figures["failed"] for figures in found)),
    }


def _rate(figures: Figures) -> float:
    """Requests/s answered with 2xx."""
    return (figures["requests"] - figures["failed"]) / figures["seconds"]
