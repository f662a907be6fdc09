"""The interface for sampling a policy: `Backend`, its argument, its result and its errors.

    SampleBatch -> Backend.sample_and_score -> SampleResult

This module implements no backend and imports none: `kernels.choice.create_backend` makes one. Arguments and results
are NumPy arrays; tensors, packed weights and devices stay inside a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

BackendChoice = Literal["auto", "triton", "cpu", "reference"]
Precision = Literal["auto", "fp32", "bf16"]
Float32 = NDArray[np.float32]


class BackendUnavailable(RuntimeError):
    """The requested backend can't run on this machine. A backend chosen by name has no fallback."""


class DeviceFailure(RuntimeError):
    """The device can't compute. The batch fails, and a server should report that it is not ready.

    DeviceFailure
    ├── DeviceOutOfMemory   no memory for the weights, or for a batch of this size
    ├── DeviceLost          the device, its context or its driver is gone
    ├── UnwrittenOutput     a kernel left part of its result unwritten, so none of it can be trusted
    └── BackendMismatch     a kernel's actions or values differ from the reference's
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
    """R requests, each with its own compute budget.

    Attributes:
        observation: (R, input_dim) float32, from `kernels.commitment.network_input`, raw (the backend normalises).
        num_candidates: (R,) int32, N >= 1.
        num_steps: (R,) int32, M in 1..denoise_timesteps.
        seed: (R,) uint64.
        temperature: (R,) float32; x_0 = temperature * z.
        first_candidate: (R,) int32, the index of the first candidate to compute; above 0 where a request is computed
            in several parts.
        return_candidates: also return all candidates and their values.
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
        """Make a batch of observations, (R, input_dim). Other fields are one value for all requests, or R values."""
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
    """The results of R requests. Actions are in [-1, 1]; `PolicySpec.action_to_environment` converts them.

    A chunk of h actions is one row of chunk_dim = h * action_dim numbers, action by action.

    Attributes:
        action: (R, chunk_dim), the candidate of the highest value.
        q: (R,), its value: the ensemble's mean or minimum, by `PolicySpec.q_agg`.
        q_std: (R,), the population standard deviation of its value over the ensemble.
        index: (R,) int32, its index within the request, counted from candidate 0; ties go to the lowest index.
        q_first: (R,), the value of candidate `first_candidate`.
        q_sum, q_sumsq: (R,), the sum of the candidates' values and of their squares.
        nonfinite: (R,) bool, whether a candidate or its value is NaN or infinite. If so, ignore the other fields.
        candidates: per request (N, chunk_dim), if requested.
        candidate_q, candidate_q_std: per request (N,) each, if requested.
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
    candidate_q_std: list[Float32] | None = None


class Backend(Protocol):
    """Samples one policy. Not thread-safe: only one thread may use it."""

    engine: str
    """What computes, e.g. "reference/fp32/cpu". Equal model versions and engines replay to the same bits."""

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        """Draw, refine and score the candidates of each request, and select the best.

        The actor evaluates sum(N * M) rows and each critic sum(N).
        """
        ...


@runtime_checkable
class MadeInSteps(Protocol):
    """A backend whose making can be left to short steps, so that other work can run between them.

    A server's warm-up calls the steps. The first batch does what they have left.
    """

    def making_steps(self) -> Iterator[Callable[[], None]]:
        """The steps, in order. Each must have been called before the next one is asked for."""
        ...


@runtime_checkable
class SelfChecking(Protocol):
    """A backend that can compare itself with the reference; a server's warm-up calls `check`."""

    def check(self) -> None:
        """Raises BackendMismatch if the results differ."""
        ...
