"""The processor's name tells generations apart that are called alike."""

from __future__ import annotations

import platform
from pathlib import Path

from kernels.machine import processor

ZEN_4 = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel\t\t: 99\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU part\t: 0xd40\n"


def test_family_and_model_of_the_first_core_follow_the_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(ZEN_4)
    assert processor(tmp_path / "cpuinfo") == "AMD EPYC (family 25, model 17)"


def test_without_them_the_platform_s_name_is_left(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(ARM)
    expected = platform.processor() or "unknown processor"
    assert processor(tmp_path / "cpuinfo") == expected
    assert processor(tmp_path / "missing") == expected
