"""`CpuBackend`: sample-and-score in one native call per batch, without the GIL. `learning`, `updates`: training.

The engine in src/ (C++17) computes noise, Euler steps, critics and selection for a ragged batch. Each tile of rows goes
through all layers, so its activations stay in a core's L2. Bias, GELU and rounding are fused into the matrix products.
The observation's share of a first layer is computed once per request.

An action's bits depend only on its request and seed: not on the other requests of the batch, the position in it, or the
number of threads. To this end every output element of a product is one accumulator that adds its inputs in ascending
order.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch

from kernels.backend import BackendUnavailable, Float32, Precision, SampleBatch, SampleResult
from kernels.schedule import step_table
from kernels.threads import native_threads
from policy import Policy
from policy.networks import LAYER_NORM_EPS

STEP_SECONDS = 0.001
"""A step of a backend's making packs layers until this time has passed."""


class CpuBackend:
    """`Backend` on the CPU.

    Args:
        policy: the policy; its weights are copied, and rounded for "bf16".
        precision: of weights and activations in the hidden layers' products; "auto" is `default_precision`.
            Accumulation, first layers, LayerNorm, GELU and Euler steps are float32 in both.
        threads: compute threads, the calling one included; 0 is `native_threads`.
        isa: an instruction set from `supported_isas`; None takes the first.
        in_steps: leave the packing of the weights to `making_steps`; until then they must not change.

    Raises:
        BackendUnavailable: the native extension was not built, or the machine lacks `isa`.
    """

    def __init__(
        self,
        policy: Policy,
        precision: Precision = "auto",
        threads: int = 0,
        isa: str | None = None,
        in_steps: bool = False,
    ) -> None:
        isas = supported_isas()
        isa = isa or isas[0]
        if isa not in isas:
            raise BackendUnavailable(f"this machine lacks {isa}; it has {', '.join(isas)}")
        precision = default_precision(isa) if precision == "auto" else precision
        self.policy = policy.float().cpu()
        self.engine = f"cpu/{precision}/{isa}"
        self._mean, self._std = _array(policy.observation_mean), _array(policy.observation_std)
        spec = policy.spec
        table = step_table(spec.denoise_timesteps, spec.max_backprop_steps, torch.device("cpu"), torch.float32)
        critic = policy.critic
        self._sampler = _native().Sampler(
            isa=isa,
            precision=precision,
            threads=threads or native_threads(),
            obs_dim=spec.input_dim,  # to the engine, a prefix is part of the observation
            action_dim=spec.chunk_dim,  # to the engine, a chunk is one action of so many numbers
            members=spec.ensemble_size,
            least=spec.q_agg == "min",
            conditioned=critic.conditioned,
            layer_norm_eps=LAYER_NORM_EPS if len(critic.norms) else None,
            actor_weight=_arrays(policy.actor.layers, "weight"),
            actor_bias=_arrays(policy.actor.layers, "bias"),
            critic_weight=_arrays(critic.layers, "weight"),
            critic_bias=_arrays(critic.layers, "bias"),
            norm_weight=_arrays(critic.norms, "weight"),
            norm_bias=_arrays(critic.norms, "bias"),
            step_t=_array(table.t),
            step_log2=_array(table.log2_steps),
            critic_steps=_array(table.critic_steps),
        )
        self._unpacked = True
        if not in_steps:
            for step in self.making_steps():
                step()

    def making_steps(self) -> Iterator[Callable[[], None]]:
        """See `MadeInSteps`. 4 x 512 takes 3 ms in all, and 25 where the memory for it is new to the process."""
        while self._unpacked:
            yield self._pack

    def _pack(self) -> None:
        until = time.perf_counter() + STEP_SECONDS
        while self._unpacked:
            self._unpacked = self._sampler.pack_layer()
            if time.perf_counter() >= until:
                return

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        """See `Backend`."""
        requests, dims = len(batch), self.policy.spec.chunk_dim
        rows = int(batch.num_candidates.sum()) if batch.return_candidates else 0
        reply: dict[str, Any] = {
            "action": np.empty((requests, dims), np.float32),
            **{name: np.empty(requests, np.float32) for name in ("q", "q_std", "q_first", "q_sum", "q_sumsq")},
            "index": np.empty(requests, np.int32),
            "nonfinite": np.empty(requests, np.bool_),
        }
        candidates = np.empty((rows, dims), np.float32) if rows else None
        candidate_q, candidate_q_std = (np.empty(rows, np.float32) if rows else None for _ in range(2))
        self._sampler.sample_and_score(
            observation=self._normalise(batch.observation),
            num_candidates=batch.num_candidates,
            num_steps=batch.num_steps,
            seed=batch.seed,
            temperature=batch.temperature,
            first_candidate=batch.first_candidate,
            candidates=candidates,
            candidate_q=candidate_q,
            candidate_q_std=candidate_q_std,
            **reply,
        )
        ends = np.cumsum(batch.num_candidates)[:-1]

        def split(array: Float32 | None) -> list[Float32] | None:
            return None if array is None else np.split(array, ends)

        return SampleResult(
            **reply,
            candidates=split(candidates),
            candidate_q=split(candidate_q),
            candidate_q_std=split(candidate_q_std),
        )

    def _normalise(self, observation: Float32) -> Float32:
        """`Policy.normalise` in NumPy: torch warns about read-only arrays."""
        if self.policy.spec.normaliser == "identity":
            return observation
        return (observation - self._mean) / self._std


def supported_isas() -> list[str]:
    """The instruction sets that this build has and this machine can run, fastest first.

    Raises:
        BackendUnavailable: the native extension was not built.
    """
    isas: list[str] = _native().supported_isas()
    return isas


def default_precision(isa: str) -> Precision:
    """bfloat16 if `isa` has its products (twice the rate of float32), else float32."""
    return "bf16" if isa == "avx512_bf16" else "fp32"


def _array(tensor: torch.Tensor) -> Float32:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def _arrays(layers: torch.nn.ModuleList, name: str) -> list[Float32]:
    return [_array(layer.get_parameter(name)) for layer in layers]


def _native() -> ModuleType:
    try:
        return importlib.import_module("kernels.cpu._engine")
    except ImportError as error:
        raise BackendUnavailable(
            f"the native engine was not built ({error}); install a C++17 compiler, then this package again"
        ) from None
