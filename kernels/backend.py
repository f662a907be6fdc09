"""The one interface through which policies are sampled, and the choice of who implements it.

    SampleBatch -> Backend.sample_and_score -> SampleResult

NumPy arrays cross this border in both directions; tensors, packed weights and devices stay behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from policy import Policy

if TYPE_CHECKING:
    from kernels.gpu.configuration import TritonOptions

log = logging.getLogger(__name__)

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


def create_backend(
    policy: Policy,
    choice: BackendChoice = "auto",
    device: str = "auto",
    precision: Precision = "auto",
    threads: int = 0,
    triton: TritonOptions | None = None,
) -> Backend:
    """The backend `choice` for `policy`.

    Args:
        policy: what to sample; the backend may take it over in place.
        choice: "auto" takes the best that can run on `device`, and logs which.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        precision: of hidden products; "auto" is the backend's own default. The reference knows fp32 only.
        threads: compute threads of the native CPU engine; 0 is its default.
        triton: options of that backend.

    Raises:
        BackendUnavailable: `choice` was named and can't run here, or the device does not exist.
        DeviceFailure: the device has no room for the policy.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and choice != "cpu" else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch: no such kind, no such index, or a build without CUDA
        reason = str(error).splitlines()[0]
        raise BackendUnavailable(f"device {device!r} can't be used by torch {torch.__version__}: {reason}") from None
    backend = _make(policy, choice, device, precision, threads, triton)
    if choice == "auto":
        log.info("backend auto: chose %s", backend.engine)
    return backend


def _make(
    policy: Policy,
    choice: BackendChoice,
    device: str,
    precision: Precision,
    threads: int,
    triton: TritonOptions | None,
) -> Backend:
    from kernels.reference import ReferenceBackend

    if choice == "triton":
        return _make_triton(policy, device, precision, triton)
    if choice == "cpu" and device != "cpu":
        raise BackendUnavailable(f"backend 'cpu' computes on the CPU, not on {device!r}")
    if choice == "cpu" or (choice == "auto" and device == "cpu"):
        from kernels.cpu import CpuBackend

        try:
            return CpuBackend(policy, precision, threads)
        except BackendUnavailable as error:
            if choice == "cpu":
                raise
            log.warning("backend auto: %s; the reference computes, several times slower", error)
    elif choice == "auto":
        try:  # 97 in place of 1,920 us at (32, 4) on an H200 (docs/performance.md)
            return _make_fused(policy, device, precision, triton)
        except BackendUnavailable as error:
            log.warning("backend auto: %s; the reference computes, some twenty times slower", error)
    if precision == "bf16":
        raise BackendUnavailable("the reference computes in fp32 only; bf16 was asked for")
    return ReferenceBackend(policy, device)


def _make_fused(policy: Policy, device: str, precision: Precision, options: TritonOptions | None) -> Backend:
    """The Triton backend, where nobody asked for it by name: on cards of the generations that tests compile it for."""
    import torch

    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        raise BackendUnavailable(
            f"the fused kernel is for compute capability 8.0 and newer, and {device} has {capability}"
        )
    return _make_triton(policy, device, precision, options)


def _make_triton(policy: Policy, device: str, precision: Precision, options: TritonOptions | None) -> Backend:
    from kernels.gpu.configuration import TritonOptions

    try:
        from kernels.gpu.backend import TritonBackend
    except ImportError as error:
        raise BackendUnavailable(
            f"backend 'triton' needs the package triton, version 3.7.1: pip install 'sorl-serve[gpu]' ({error})"
        ) from None
    options = options or TritonOptions()
    return TritonBackend(policy, device, options if precision == "auto" else replace(options, precision=precision))


def engine_choice(engine: str) -> tuple[BackendChoice, Precision]:
    """What to ask `create_backend` for to get `engine` ("cpu/bf16/avx512_bf16") again, as far as the machine has it."""
    family, precision = [*engine.split("/"), ""][:2]
    return _CHOICES.get(family, "auto"), _PRECISIONS.get(precision, "auto")


_CHOICES: dict[str, BackendChoice] = {name: name for name in get_args(BackendChoice)}
_PRECISIONS: dict[str, Precision] = {name: name for name in get_args(Precision)}
