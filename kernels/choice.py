"""Which backend samples a policy: the best that can run here, or the one that was asked for by name."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from kernels.backend import Backend, BackendChoice, BackendUnavailable, Precision
from policy import Policy

if TYPE_CHECKING:
    from kernels.gpu.configuration import TritonOptions

log = logging.getLogger(__name__)


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
