"""What became of one tile compiled for one card, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

SHARED_LIMIT = {
    "sm_80": 166_912, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376, "gfx942": 65_536,
}  # fmt: skip
"""Bytes of shared memory one program may have."""


@dataclass(frozen=True)
class Compiled:
    """What became of one tile on one card.

    Attributes:
        tile, card: which.
        registers: of a thread.
        spill_bytes: stored to memory for want of registers, a thread.
        shared_bytes: of a program.
        instruction, instructions: what multiplies matrices, and how many of it the code has.
        code_bytes: machine code.
        remarks: anything in the code or the assembler's log that is a breach by itself.
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
        """What is wrong with it, for people; empty if nothing."""
        found = list(self.remarks)
        if self.spill_bytes:
            found.append(f"{self.spill_bytes} bytes of registers spilled")
        if self.shared_bytes > SHARED_LIMIT[self.card]:
            found.append(f"{self.shared_bytes} bytes of shared memory, the card has {SHARED_LIMIT[self.card]}")
        if not self.instructions:
            found.append(f"no {self.instruction}")
        return [f"{self.tile} on {self.card}: {what}" for what in found]
