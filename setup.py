"""The native CPU engine (kernels/cpu/src). Everything else about the package is in pyproject.toml.

Optional: without a C++17 compiler the package installs all the same and serves through the reference.
"""

from __future__ import annotations

from pathlib import Path

import nanobind
from setuptools import Extension, setup

SOURCES = Path("kernels/cpu/src")
NANOBIND = Path(nanobind.__file__).parent

setup(
    ext_modules=[
        Extension(
            "kernels.cpu._engine",
            sources=[*map(str, sorted(SOURCES.glob("*.cpp"))), str(NANOBIND / "src" / "nb_combined.cpp")],
            depends=[*map(str, sorted(SOURCES.glob("*.hpp")))],
            include_dirs=[str(NANOBIND / "include"), str(NANOBIND / "ext" / "robin_map" / "include")],
            extra_compile_args=["-std=c++17", "-O3", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
