"""Create a backend for a policy: the best one for this machine, or the one requested by name.

Backends are imported only when they are created, so a missing triton or native extension matters only to its user.
"""

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
    in_steps: bool = False,
) -> Backend:
    """Create a backend that samples `policy`.

    Args:
        policy: the policy; the backend may move or convert it in place.
        choice: which backend. "auto" takes the fastest that can run on `device`, and logs its name.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        precision: of the hidden layers' matrix products; "auto" is the backend's default. The reference has fp32 only.
        threads: compute threads of the native CPU engine; 0 is its default.
        triton: options of the Triton backend.
        in_steps: leave what takes long to the backend's `MadeInSteps.making_steps`, if it has them.

    Raises:
        BackendUnavailable: the backend `choice` can't run here, or there is no such device.
        DeviceFailure: the device has no memory for the policy.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and choice != "cpu" else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device type, no such index, or torch without CUDA
        reason = str(error).splitlines()[0]
        raise BackendUnavailable(f"device {device!r} can't be used by torch {torch.__version__}: {reason}") from None
    backend = _make(policy, choice, device, precision, threads, triton, in_steps)
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
    in_steps: bool,
) -> Backend:
    from kernels.reference import ReferenceBackend

    if choice == "triton":
        return _make_triton(policy, device, precision, triton)
    if choice == "cpu" and device != "cpu":
        raise BackendUnavailable(f"backend 'cpu' computes on the CPU, not on {device!r}")
    if choice == "cpu" or (choice == "auto" and device == "cpu"):
        from kernels.cpu import CpuBackend

        try:
            return CpuBackend(policy, precision, threads, in_steps=in_steps)
        except BackendUnavailable as error:
            if choice == "cpu":
                raise
            log.warning("backend auto: %s; using the reference, which is several times slower", error)
    elif choice == "auto":
        try:  # 97 us instead of the reference's 1,920 at (32, 4) on an H200 (docs/performance.md)
            return _make_triton_if_supported(policy, device, precision, triton)
        except BackendUnavailable as error:
            log.warning("backend auto: %s; using the reference, which is some twenty times slower", error)
    if precision == "bf16":
        raise BackendUnavailable("the reference has fp32 only, not bf16")
    return ReferenceBackend(policy, device)


def _make_triton_if_supported(
    policy: Policy, device: str, precision: Precision, options: TritonOptions | None
) -> Backend:
    """The Triton backend for "auto": only on the GPU generations that the kernel is compiled for in tests."""
    import torch

    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        raise BackendUnavailable(
            f"the Triton kernel needs compute capability 8.0 or newer, and {device} has {capability}"
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
    """The `choice` and `precision` with which `create_backend` makes `engine`, e.g. "cpu/bf16/avx512_bf16".

    The instruction set, or the GPU, is the machine's: check the new backend's `engine`.
    """
    family, precision = [*engine.split("/"), ""][:2]
    return _CHOICES.get(family, "auto"), _PRECISIONS.get(precision, "auto")


_CHOICES: dict[str, BackendChoice] = {name: name for name in get_args(BackendChoice)}
_PRECISIONS: dict[str, Precision] = {name: name for name in get_args(Precision)}
