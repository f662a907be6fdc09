"""`Checker`: compare a server's replies with the reference's actions, for the same noise."""

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
"""The largest error of an action, whose range is 2. bf16 rounds to 8 bits in every layer of every step."""


class WrongAnswer(RuntimeError):
    """A server's action is not the policy's."""


class Checker:
    """Has a request with fixed noise and the reference's actions for it."""

    def __init__(self, policy: Policy, num_candidates: int = 32, num_steps: int = 4) -> None:
        spec = policy.spec
        seen = observation(spec.obs_dim)
        batch = SampleBatch.of(np.array([seen]), num_candidates, num_steps, SEED, return_candidates=True)
        result = ReferenceBackend(policy).sample_and_score(batch)
        assert result.candidates is not None
        self._best = spec.action_to_environment(result.action[0])
        self._candidates = spec.action_to_environment(result.candidates[0])
        noise = standard_normals(torch.full((num_candidates,), SEED), torch.arange(num_candidates), spec.chunk_dim)
        budget = {"num_candidates": num_candidates, "num_steps": num_steps}
        self._fields = {"observation": seen, **budget, "noise": noise.tolist()}

    def check(self, url: str, precision: str) -> None:
        """Send the request to the peer at `url`, and compare its reply.

        Raises:
            WrongAnswer: the action is not the reference's choice (fp32), or not one of the reference's candidates
                (bf16, where rounding may change the order of values).
            OSError: no reply.
        """
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/act", json.dumps(self._fields).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            self.compare(json.loads(response.read()), precision)

    def compare(self, reply: dict[str, Any], precision: str) -> None:
        """Compare a decoded reply. Raises WrongAnswer as `check` does."""
        action = np.asarray(reply.get("action"), dtype=np.float64)
        if action.shape != self._best.shape or not np.isfinite(action).all():
            raise WrongAnswer(
                f"action: expected finite numbers of shape {self._best.shape}, found {reply.get('action')}"
            )
        allowed = self._best[None] if precision == "fp32" else self._candidates
        distance = float(np.abs(allowed - action).reshape(len(allowed), -1).max(axis=1).min())
        if distance > TOLERANCE[precision]:
            raise WrongAnswer(f"action: {distance:.3g} from the reference's in {precision}, found {action.tolist()}")
