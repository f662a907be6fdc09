"""Nothing that serves a policy reads pickles: a pickle is a program, and whoever sends one could run it here.

Read from the source: every module of what runs beside a robot, and every module of ours that these import, anywhere in
them. Other people's libraries are not read. `training/release/array_pickle.py` imports pickle, to read checkpoints of
the released SORL code: it runs nothing in them, and nothing that serves reaches it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.rooms import ROOT, imports

FOLDERS = {
    name: ROOT / name for name in ("bench", "deploy", "kernels", "policy", "service", "training")
} | {"sorl_client": ROOT / "client" / "sorl_client"}  # fmt: skip
SERVING = ("deploy", "kernels", "policy", "service", "sorl_client")
READER = "training.release.array_pickle"

PICKLES = {"_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "msgpack_numpy", "pickle", "shelve"}
PICKLING_METHODS = {"recv_pyobj", "send_pyobj", "read_pickle", "to_pickle"}  # of ZeroMQ's sockets, of pandas
READERS = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
    "numpy.lib.npyio.load": ("allow_pickle", False),
}
"""What reads pickles too, unless this argument has this value."""


def modules_of(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for package, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *inside)).removesuffix(".__init__")] = path
    return found


def reached(start: Iterable[str], known: Mapping[str, Path]) -> set[str]:
    """`start`, and the modules of `known` that these import. A module's packages are imported with it."""
    waiting, seen = list(start), set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen or module not in known:
            continue
        seen.add(module)
        waiting.append(module.rpartition(".")[0])
        for source, name in imports(known[module]):
            waiting += [source, f"{source}.{name}"]
    return seen


def faults(source: str) -> list[str]:
    """What in a module's source reads or writes pickles, a line each."""
    tree = ast.parse(source)
    found, names = [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
                found += [(node.lineno, alias.name)] if top in PICKLES else []
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [(node.lineno, node.module)] if (node.module or "").split(".")[0] in PICKLES else []
    allowed = set[ast.expr]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if _safe(node, names):
                allowed.add(node.func)
            if _dotted(node.func, names) in ("__import__", "importlib.import_module"):
                found += [(node.lineno, name) for name in _strings(node) if name.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Name, ast.Attribute)) or not isinstance(node.ctx, ast.Load):
            continue
        name = _dotted(node, names)
        if name in READERS and node not in allowed:
            argument, value = READERS[name]
            found.append((node.lineno, f"{name} without {argument}={value}"))
        elif isinstance(node, ast.Attribute) and node.attr in PICKLING_METHODS:
            found.append((node.lineno, node.attr))
    return [f"line {line}: {what}" for line, what in sorted(found)]


def _dotted(node: ast.expr, names: Mapping[str, str]) -> str:
    """What a name stands for, by the module's imports: np.load is numpy.load."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def _safe(call: ast.Call, names: Mapping[str, str]) -> bool:
    argument, value = READERS.get(_dotted(call.func, names), ("", None))
    return any(
        keyword.arg == argument and isinstance(keyword.value, ast.Constant) and keyword.value.value is value
        for keyword in call.keywords
    )


def _strings(call: ast.Call) -> Iterator[str]:
    return (node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_nothing_that_serves_reads_pickles() -> None:
    known = modules_of(FOLDERS)
    serving = reached((module for module in known if module.split(".")[0] in SERVING), known)
    assert {
        "service.protocol.groot",
        "service.web.act",
        "kernels.cpu",
        "policy.checkpoint",
        "sorl_client.wire",
    } < serving
    assert [f"{module}, {fault}" for module in sorted(serving) for fault in faults(known[module].read_text())] == []
    assert READER not in serving


def test_one_module_of_all_imports_pickle() -> None:
    known = modules_of(FOLDERS)
    with_pickle = {module for module, path in known.items() for source, _ in imports(path) if source in PICKLES}
    assert with_pickle == {READER}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "import cloudpickle",
        "from dill import load",
        "import shelve",
        "import joblib.memory",
        "def f():\n    import pickle",
        "__import__('pickle')",
        "import importlib\nimportlib.import_module('pickle')",
        "from importlib import import_module as load\nload('dill')",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=chosen)",
        "import torch as t\nread = t.load",
        "from torch import load\nload(path)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy\nnumpy.load(path, 'r', True)",
        "from numpy import load as read\nread(path)",
        "from numpy.lib import format\nformat.read_array(file)",
        "socket.recv_pyobj()",
    ],
)
def test_a_planted_pickle_is_found(source: str) -> None:
    (fault,) = faults(source)
    assert fault.startswith(f"line {1 + source.count(chr(10))}: ")


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import numpy as np\nnp.save(file, array, allow_pickle=False)",
        "import json\njson.load(file)",
        "pickle = 'a word in a string: import pickle'",
    ],
)
def test_what_runs_nothing_is_let_through(source: str) -> None:
    assert faults(source) == []


def test_a_pickle_behind_other_modules_is_reached(tmp_path: Path) -> None:
    """The server imports a name of a package, whose __init__ has it from a module that imports another, inside a
    function. What no one imports is not reached.
    """
    for path, source in {
        "server/__init__.py": "",
        "server/app.py": "from tools import names",
        "tools/__init__.py": "from tools.first import names",
        "tools/first.py": "def names():\n    import tools.deep.second",
        "tools/deep/__init__.py": "import pickle",
        "tools/deep/second.py": "",
        "tools/other.py": "import pickle",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    known = modules_of({"server": tmp_path / "server", "tools": tmp_path / "tools"})
    found = reached(["server.app"], known)
    assert found == {"server", "server.app", "tools", "tools.first", "tools.deep", "tools.deep.second"}
    assert {module for module in found if faults(known[module].read_text())} == {"tools.deep"}
