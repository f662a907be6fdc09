"""`Compiled`: the resources of one tile compiled for one GPU architecture, and its breaches."""

from __future__ import annotations

from dataclasses import dataclass

SHARED_LIMIT = {
    "sm_80": 166_912, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376, "gfx942": 65_536,
}  # fmt: skip
"""The most bytes of shared memory per program."""


@dataclass(frozen=True)
class Compiled:
    """One tile compiled for one GPU architecture.

    Attributes:
        tile, card: the names of both.
        registers: registers per thread.
        spill_bytes: bytes of registers that a thread spills to memory.
        shared_bytes: bytes of shared memory per program.
        instruction: the expected matrix instruction.
        instructions: how often the code has it.
        code_bytes: bytes of machine code.
        remarks: breaches found in the code or the assembler's log.
    """

    tile: str
    card: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    instruction: str
    instructions: int
    code_bytes: int
    remarks: tuple[str, ...] = ()

    def breaches(self) -> list[str]:
        """All breaches, as lines for people."""
        found = list(self.remarks)
        if self.spill_bytes:
            found.append(f"{self.spill_bytes} bytes of registers spilled")
        if self.shared_bytes > SHARED_LIMIT[self.card]:
            found.append(f"{self.shared_bytes} bytes of shared memory, the GPU has {SHARED_LIMIT[self.card]}")
        if not self.instructions:
            found.append(f"no {self.instruction}")
        return [f"{self.tile} on {self.card}: {what}" for what in found]
