"""The kernel's arguments, constants and compiler options, for devices, the interpreter and `sorl-bench aot` alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from kernels.gpu.configuration import Tile
from kernels.gpu.kernel import sample_and_score
from kernels.gpu.packing import Widths
from policy import PolicySpec

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether TRITON_INTERPRET=1 was set before triton was imported. NumPy then runs the programs one after another."""


def dimensions(widths: Widths, spec: PolicySpec, capacity: int) -> dict[str, int]:
    """The kernel's run-time numbers, except `phase`, for scratch buffers of `capacity` rows."""
    return {
        "capacity": capacity,
        "observation_stride": widths.observation,
        "chunk_dim": spec.chunk_dim,
        "action_stride": widths.action,
        "hidden_stride": widths.hidden_stride,
        "actor_width": widths.actor,
        "actor_stride": widths.actor_stride,
        "actor_layers": widths.actor_layers,
        "critic_width": widths.critic,
        "critic_stride": widths.critic_stride,
        "critic_layers": widths.critic_layers,
        "members": widths.members,
        "max_steps": spec.denoise_timesteps,
        "layer_norm": int(spec.critic_layer_norm),
        "aggregate_min": int(spec.q_agg == "min"),
    }


def constants(tile: Tile, phased: bool = False) -> dict[str, Any]:
    """The kernel's compile-time constants."""
    return {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "STAGES": tile.stages,
        "BF16": tile.precision == "bf16",
        "SPLIT": tile.split,
        "PHASED": phased,
        "INTERPRET": INTERPRETED,
    }


def options(tile: Tile, slices: int, hip: bool = False) -> dict[str, Any]:
    """Triton's compiler and launch options. `enable_fp_fusion` is explicit because results depend on it to the bit."""
    found: dict[str, Any] = {
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,
        "launch_cooperative_grid": slices > 1,  # slices wait for each other, so all programs must be resident
    }
    if tile.registers is not None and not hip:  # HIP has no such option
        found["maxnreg"] = tile.registers
    return found


def phases(widths: Widths, longest: int) -> int:
    """The number of phases between barriers, for batches of at most `longest` steps."""
    return longest * widths.actor_layers + widths.members * widths.critic_layers + 1


def launch(tile: Tile, groups: int, slices: int, arguments: dict[str, Tensor | int], phase: int | None = None) -> None:
    """Launch the kernel on the current stream; under the interpreter, one `phase` of it if given."""
    keywords: dict[str, Any] = {**arguments, "phase": phase or 0, **constants(tile, phase is not None)}
    if INTERPRETED:
        with np.errstate(all="ignore"):  # as on a device, overflow of exp() is no warning
            sample_and_score[(groups, slices)](**keywords)
    else:
        sample_and_score[(groups, slices)](**keywords, **options(tile, slices, torch.version.hip is not None))
