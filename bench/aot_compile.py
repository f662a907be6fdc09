"""`compile_tile`: compile one tile for one GPU architecture, and read its resources from the result.

`bench.aot` runs it in other processes. `Compiled`, what it returns, is in `bench.aot_result`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
from typing import Any

from bench.aot_result import Compiled
from kernels.gpu.configuration import Tile


def compile_tile(tile: Tile, card: str) -> Compiled:
    """Compile `tile` for the architecture `card`. Raises what triton and the assembler raise."""
    os.environ["TRITON_DUMP_PTXAS_LOG"] = "1"
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernels.gpu.kernel import NOT_SPECIALISED, sample_and_score
    from kernels.gpu.launch import constants, options

    hip = card.startswith("gfx")
    arguments, fixed = arguments_of(tile, 1), {**constants(tile), "INTERPRET": False}
    names = sample_and_score.arg_names
    signature, aligned = {}, {}
    remarks = specialisations(arguments) + specialisations(arguments_of(tile, 7))
    for position, name in enumerate(names):
        if name in fixed:
            signature[name] = "constexpr"
            continue
        value = arguments[name]
        signature[name] = "i32" if isinstance(value, int) else _POINTERS[str(value.dtype)]
        if name not in NOT_SPECIALISED:
            aligned[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(sample_and_score, signature, {(names.index(k),): v for k, v in fixed.items()}, aligned)
    target = GPUTarget("hip", card, 64) if hip else GPUTarget("cuda", int(card.removeprefix("sm_")), 32)
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        kernel: Any = triton.compile(source, target=target, options=options(tile, 2 if tile.split else 1, hip))
    instruction = expected_instruction(tile, card)
    if hip:
        return _of_amd(tile, card, kernel, instruction, remarks)
    return _of_nvidia(tile, card, kernel, log.getvalue(), instruction, remarks)


def specialisations(arguments: dict[str, Any]) -> list[str]:
    """A remark for every number by which Triton would tell policies apart."""
    from kernels.gpu.kernel import NOT_SPECIALISED

    return [
        f"{name} is {value}, so Triton would compile a second kernel for it"
        for name, value in arguments.items()
        if isinstance(value, int) and value % 16 and name not in NOT_SPECIALISED
    ]


_POINTERS = {
    "torch.float32": "*fp32", "torch.bfloat16": "*bf16", "torch.int32": "*i32", "torch.int64": "*i64",
}  # fmt: skip


def arguments_of(tile: Tile, action_horizon: int) -> dict[str, Any]:
    """The launcher's arguments for a policy of odd sizes, on which the compiled code must not depend.

    One kernel serves actions and chunks: `action_horizon` changes numbers only, as the other sizes do.
    """
    import torch

    from kernels.gpu.bucket import Bucket
    from kernels.gpu.packing import pack_policy
    from policy import Policy, PolicySpec

    spec = PolicySpec(
        name="odd", obs_dim=7, action_dim=3, action_low=(-1,) * 3, action_high=(1,) * 3, actor_hidden=(5,),
        critic_hidden=(9, 130), ensemble_size=3, action_horizon=action_horizon,
    )  # fmt: skip
    cpu = torch.device("cpu")
    dtype = torch.bfloat16 if tile.precision == "bf16" else torch.float32
    packed = pack_policy(Policy(spec), cpu, dtype, dtype)
    return {**Bucket(spec, packed, tile, 1, tile.rows, cpu, dtype, None).arguments, "phase": 0}


def expected_instruction(tile: Tile, card: str) -> str:
    """The instruction that the tile's matrix products should compile to."""
    if card.startswith("gfx"):
        return "v_mfma"
    if tile.precision == "fp32":
        return "fma.rn.f32"  # IEEE products have no matrix instruction
    if tile.rows >= 64:  # both need at least 64 rows
        return {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}.get(card, "mma.sync")
    return "mma.sync"


def _of_nvidia(tile: Tile, card: str, kernel: Any, log: str, instruction: str, remarks: list[str]) -> Compiled:
    ptx = kernel.asm["ptx"]
    if "serialized" in log:
        remarks.append("the assembler serialised wgmma")
    if tile.precision == "fp32" and "tf32" in ptx:
        remarks.append("TF32 in fp32 mode")
    if tile.split and "ld.global.gpu.acquire" not in ptx:
        remarks.append("the barrier of the split mode does not wait")
    spills = [int(stores) for stores in re.findall(r"(\d+) bytes spill stores", log)]
    registers = [int(used) for used in re.findall(r"Used (\d+) registers", log)]
    if not spills or not registers:
        raise RuntimeError(f"the assembler's log has changed its form: {log!r}")
    return Compiled(
        tile.name, card, max(registers), max(spills), kernel.metadata.shared, instruction, ptx.count(instruction),
        _text_bytes(kernel.asm["cubin"]), tuple(remarks),
    )  # fmt: skip


def _of_amd(tile: Tile, card: str, kernel: Any, instruction: str, remarks: list[str]) -> Compiled:
    assembly = kernel.asm["amdgcn"]

    def figure(pattern: str) -> int:
        return max(int(value) for value in re.findall(pattern, assembly))

    # The private segment has the bytes spilled to memory. Scalar registers spill to lanes of vector registers instead.
    return Compiled(
        tile.name, card, figure(r"\.vgpr_count:\s*(\d+)"), figure(r"\.private_segment_fixed_size:\s*(\d+)"),
        kernel.metadata.shared, instruction, assembly.count(instruction), figure(r"codeLenInByte = (\d+)"),
        tuple(remarks),
    )  # fmt: skip


def _text_bytes(elf: bytes) -> int:
    """Bytes of machine code in a 64-bit little-endian ELF file: the size of its executable sections."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", elf, table + i * entry) for i in range(count)]
    return sum(size for _, _, flags, _, _, size in sections if flags & 0x4)
