"""The one interface through which policies are sampled. `kernels.choice` chooses who implements it.

    SampleBatch -> Backend.sample_and_score -> SampleResult

NumPy arrays cross this border in both directions; tensors, packed weights and devices stay behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

BackendChoice = Literal["auto", "triton", "cpu", "reference"]
Precision = Literal["auto", "fp32", "bf16"]
Float32 = NDArray[np.float32]


class BackendUnavailable(RuntimeError):
    """A backend that was asked for by name can't run here; there is no silent fallback."""


class NonFiniteOutput(RuntimeError):
    """A candidate of a request came out NaN or infinite: that request must fail, not move a motor."""


class DeviceFailure(RuntimeError):
    """The device can't compute: what was asked fails, and whoever serves should stop calling itself ready.

    DeviceFailure
    ├── DeviceOutOfMemory   no room for the weights, or for a batch of this size
    ├── DeviceLost          the device, its context or its driver is gone
    ├── UnwrittenOutput     a kernel left part of its reply unwritten: nothing it says can be trusted
    └── BackendMismatch     a kernel's actions are not the reference's
    """


class DeviceOutOfMemory(DeviceFailure):
    """See `DeviceFailure`."""


class DeviceLost(DeviceFailure):
    """See `DeviceFailure`."""


class UnwrittenOutput(DeviceFailure):
    """See `DeviceFailure`."""


class BackendMismatch(DeviceFailure):
    """See `DeviceFailure`."""


@dataclass(frozen=True)
class SampleBatch:
    """R requests of mixed compute budgets.

    Attributes:
        observation: (R, obs_dim) float32, raw (the backend normalises).
        num_candidates: (R,) int32, N >= 1.
        num_steps: (R,) int32, M in 1..denoise_timesteps.
        seed: (R,) uint64.
        temperature: (R,) float32; x_0 = temperature * z.
        first_candidate: (R,) int32: the number of this slice's first candidate within its request.
        return_candidates: also return every candidate with its q.
    """

    observation: Float32
    num_candidates: NDArray[np.int32]
    num_steps: NDArray[np.int32]
    seed: NDArray[np.uint64]
    temperature: Float32
    first_candidate: NDArray[np.int32]
    return_candidates: bool = False

    def __len__(self) -> int:
        return len(self.observation)

    @classmethod
    def of(
        cls,
        observation: Float32,
        num_candidates: int | Sequence[int],
        num_steps: int | Sequence[int],
        seed: int | Sequence[int] | NDArray[np.uint64],
        temperature: float | Sequence[float] = 1.0,
        first_candidate: int | Sequence[int] = 0,
        return_candidates: bool = False,
    ) -> SampleBatch:
        """A batch from scalars or per-request sequences; `observation` is (R, obs_dim)."""
        observation = np.ascontiguousarray(observation, dtype=np.float32)
        requests = len(observation)

        def column(value: object, dtype: type) -> np.ndarray:
            return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=dtype), (requests,)))

        return cls(
            observation=observation,
            num_candidates=column(num_candidates, np.int32),
            num_steps=column(num_steps, np.int32),
            seed=column(seed, np.uint64),
            temperature=column(temperature, np.float32),
            first_candidate=column(first_candidate, np.int32),
            return_candidates=return_candidates,
        )


@dataclass(frozen=True)
class SampleResult:
    """What became of each of R requests. Actions are in [-1, 1]; `PolicySpec.action_to_environment` converts.

    Attributes:
        action: (R, action_dim), the chosen candidate.
        q: (R,), its value: the ensemble's mean or minimum, as the spec says.
        q_std: (R,), the spread of the ensemble's members for the chosen action (population form).
        index: (R,) int32, the winner's number within the request (first_candidate included); ties go to the lowest.
        q_first: (R,), the value of this slice's first candidate.
        q_sum, q_sumsq: (R,), over this slice's candidates.
        nonfinite: (R,) bool, some candidate or its value is NaN or infinite: the other fields mean nothing.
        candidates: per request (N, action_dim), when asked for.
        candidate_q: per request (N,), when asked for.
    """

    action: Float32
    q: Float32
    q_std: Float32
    index: NDArray[np.int32]
    q_first: Float32
    q_sum: Float32
    q_sumsq: Float32
    nonfinite: NDArray[np.bool_]
    candidates: list[Float32] | None = None
    candidate_q: list[Float32] | None = None


class Backend(Protocol):
    """Samples one policy. Not thread-safe: one worker thread owns it."""

    engine: str
    """What computed a reply, e.g. "reference/fp32/cpu"; replay is bitwise for equal (model version, engine)."""

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        """Draw, refine, score and select. Network rows evaluated: sum of N * M and sum of N, no padding."""
        ...


@runtime_checkable
class SelfChecking(Protocol):
    """A backend that warm-up asks to compare itself with the reference before it serves."""

    def check(self) -> None:
        """Raises BackendMismatch."""
        ...
