"""Does a server compute the same thing? Its answers against the reference's, given the same noise."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import numpy as np
import torch

from bench.serving.bodies import observation
from kernels.backend import SampleBatch
from kernels.philox import standard_normals
from kernels.reference import ReferenceBackend
from policy import Policy

SEED = 7
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""In actions, whose range is 2. bf16 keeps 8 bits, in every layer of every step."""


class WrongAnswer(RuntimeError):
    """A server answered something that the policy would not."""


class Checker:
    """Knows what `policy` answers to a request with given noise."""

    def __init__(self, policy: Policy, num_candidates: int = 32, num_steps: int = 4) -> None:
        spec = policy.spec
        seen = observation(spec.obs_dim)
        batch = SampleBatch.of(np.array([seen]), num_candidates, num_steps, SEED, return_candidates=True)
        result = ReferenceBackend(policy).sample_and_score(batch)
        assert result.candidates is not None
        self._best = spec.action_to_environment(result.action[0])
        self._candidates = spec.action_to_environment(result.candidates[0])
        noise = standard_normals(torch.full((num_candidates,), SEED), torch.arange(num_candidates), spec.action_dim)
        budget = {"num_candidates": num_candidates, "num_steps": num_steps}
        self._fields = {"observation": seen, **budget, "noise": noise.tolist()}

    def check(self, url: str, precision: str) -> None:
        """Ask the peer at `url`.

        Raises:
            WrongAnswer: it is not the reference's choice (fp32) or none of the reference's candidates (bf16, where
                values within rounding of each other may change places).
            OSError: no answer.
        """
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/act", json.dumps(self._fields).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            self.compare(json.loads(response.read()), precision)

    def compare(self, reply: dict[str, Any], precision: str) -> None:
        """Raises WrongAnswer, as `check`."""
        action = np.asarray(reply.get("action"), dtype=np.float64)
        if action.shape != self._best.shape or not np.isfinite(action).all():
            raise WrongAnswer(f"action: expected {len(self._best)} finite numbers, found {reply.get('action')}")
        allowed = self._best[None] if precision == "fp32" else self._candidates
        distance = float(np.abs(allowed - action).max(axis=1).min())
        if distance > TOLERANCE[precision]:
            raise WrongAnswer(f"action: {distance:.3g} from the reference's in {precision}, found {action.tolist()}")
