"""The policy that the benchmarks serve, and the models that a server lists."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from typing import Any

from bench.engine import EngineBenchConfig, make_policy
from policy import Measurement, Policy, Provenance

PLANTED = "frontier planted for benchmarks: nobody measured it, and the weights are random"
EPISODES = 1_000_000
"""Episodes of a planted cell: so many that all rates differ significantly, because cells that do not are tied."""


def policy_with_frontier(action_horizon: int = 1) -> Policy:
    """A policy with cube-single's dimensions, the paper's width, random weights and an invented frontier.

    Success rises with N and with M, by less and less, as in real frontiers. The provenance says that it is planted.
    """
    policy = make_policy(EngineBenchConfig(), action_horizon)
    cells = tuple(planted_cell(n, m) for n in (1, 2, 4, 8, 16, 32, 64, 128) for m in (1, 2, 4, 8))
    policy.spec = replace(policy.spec, name="planted", frontier=cells, provenance=Provenance(notes=PLANTED))
    return policy


def planted_cell(num_candidates: int, num_steps: int) -> Measurement:
    """A cell with success 0.95 minus a loss for few candidates and one for few steps, different in all cells."""
    from sorl_client.statistics import wilson_interval

    share = 0.95 - 0.30 * num_candidates**-0.6 - 0.23 * num_steps**-0.6
    successes = round(share * EPISODES)
    low, high = wilson_interval(successes, EPISODES)
    return Measurement(num_candidates, num_steps, successes / EPISODES, low, high, EPISODES)


def get_models(url: str) -> list[dict[str, Any]]:
    """The models that GET /models lists. Raises OSError."""
    with urllib.request.urlopen(f"{url}/models", timeout=10) as response:
        found: list[dict[str, Any]] = json.loads(response.read())["models"]
        return found
