"""Launching the kernel: its arguments, by name, in one place for devices, the interpreter and `sorl-bench aot`."""

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
"""TRITON_INTERPRET=1 was set before triton was imported: kernels run on the CPU, program after program, in NumPy."""


def dimensions(widths: Widths, spec: PolicySpec, capacity: int) -> dict[str, int]:
    """The kernel's run-time numbers but `phase`, for scratch of `capacity` rows."""
    return {
        "capacity": capacity,
        "observation_stride": widths.observation,
        "action_dim": spec.action_dim,
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
    """The kernel's compile-time numbers."""
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
    """How the compiler is to treat it. `enable_fp_fusion` is said, as bits depend on it."""
    found: dict[str, Any] = {
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,
        "launch_cooperative_grid": slices > 1,  # the slices of a group wait for each other: all must be resident
    }
    if tile.registers is not None and not hip:  # HIP has no such option
        found["maxnreg"] = tile.registers
    return found


def phases(widths: Widths, longest: int) -> int:
    """How many pieces barriers cut the kernel into, for batches of at most `longest` steps."""
    return longest * widths.actor_layers + widths.members * widths.critic_layers + 1


def launch(tile: Tile, groups: int, slices: int, arguments: dict[str, Tensor | int], phase: int | None = None) -> None:
    """One kernel launch on the current stream, of the whole kernel, or of one `phase` of it (interpreter only)."""
    keywords: dict[str, Any] = {**arguments, "phase": phase or 0, **constants(tile, phase is not None)}
    if INTERPRETED:
        with np.errstate(all="ignore"):  # a device raises no warning where exp() overflows
            sample_and_score[(groups, slices)](**keywords)
    else:
        sample_and_score[(groups, slices)](**keywords, **options(tile, slices, torch.version.hip is not None))
