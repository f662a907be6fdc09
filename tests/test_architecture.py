"""The import arrows of the house (docs/architecture.md), held by reading every module's imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"bench", "deploy", "examples", "policy", "kernels", "training", "service", "sorl_client"}
FOLDERS = {
    "bench": ROOT / "bench",
    "deploy": ROOT / "deploy",
    "examples": ROOT / "examples",
    "policy": ROOT / "policy",
    "kernels": ROOT / "kernels",
    "training": ROOT / "training",
    "service": ROOT / "service",
    "sorl_client": ROOT / "client" / "sorl_client",
}
ARROWS: dict[str, set[str]] = {
    "bench": {"policy", "kernels", "training", "service", "sorl_client"},
    "deploy": {"service"},
    "examples": {"sorl_client"},
    "policy": set(),
    "kernels": {"policy"},
    "training": {"policy", "kernels", "sorl_client"},
    "service": {"policy", "kernels"},
    "sorl_client": set(),
}
THIRD_PARTY_OF_POLICY = {"torch", "safetensors"}


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: say the full name"
            names.add((node.module or "").split(".")[0])
    return names


def modules(package: str) -> list[Path]:
    found = sorted(FOLDERS[package].rglob("*.py"))
    assert found, f"{package} has no modules"
    return found


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_a_package_imports_only_what_its_arrows_allow(package: str) -> None:
    for path in modules(package):
        foreign = (imported_packages(path) & OURS) - {package} - ARROWS[package]
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_policy_needs_torch_and_safetensors_only() -> None:
    import sys

    for path in modules("policy"):
        third_party = imported_packages(path) - set(sys.stdlib_module_names) - {"policy"}
        assert third_party <= THIRD_PARTY_OF_POLICY, f"{path.relative_to(ROOT)} imports {third_party}"


def test_the_client_needs_no_torch() -> None:
    for path in modules("sorl_client"):
        assert not imported_packages(path) & {"torch", "safetensors"}, path


def test_the_scheduler_knows_neither_torch_nor_the_web_framework() -> None:
    for path in (FOLDERS["service"] / "scheduling").rglob("*.py"):
        assert not imported_packages(path) & {"torch", "numpy", "fastapi", "starlette", "pydantic"}, path


def test_tests_mirror_the_folders() -> None:
    for folder in (path for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "_."):
        assert folder.name in {*ARROWS, "client", "deploy", "fixtures"}, folder


def test_what_not_everyone_has_is_imported_inside_functions_only() -> None:
    """`sorl-bench` lists its subcommands and `create_backend` works without triton, training or service installed."""
    with_triton = {"kernel", "layers", "launch", "noise", "selection"}
    at_module_level = {path: module_level_imports(path) for path in [*modules("bench"), *modules("kernels")]}
    for path, names in at_module_level.items():
        if not (path.parent.name == "gpu" and path.stem in with_triton):  # the kernel itself and its launcher
            assert "triton" not in names, path
        if path.parent.name != "bench" or path.stem in {"cli", "gpu", "aot", "table", "machine"}:
            assert not names & {"service", "training", "sorl_client"}, path


def module_level_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names
