"""The machine's name, for tables of measurements."""

from __future__ import annotations

import platform
from pathlib import Path

from kernels.threads import available_cores


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name, family and model, e.g. "AMD EPYC (family 25, model 17)".

    A name alone says too little: virtual machines call a Zen 4 and a Zen 5 alike, and one is twice as fast here.
    """
    try:
        first, _, _ = cpuinfo.read_text().partition("\n\n")
    except OSError:
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    name = facts.get("model name") or platform.processor() or "unknown processor"
    if "cpu family" in facts and "model" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def machine() -> str:
    """Processor and number of cores, e.g. "AMD EPYC (family 25, model 17), 2 cores"."""
    return f"{processor()}, {available_cores()} cores"
