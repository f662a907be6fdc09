"""Arrays are read back exactly. Anything else that a pickle asks for is refused and not run."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.release.array_pickle import DTYPES, ArrayPickleError, ForbiddenGlobal, read_array_pickle

GENUINE = Path(__file__).parents[2] / "fixtures" / "released_agent_tiny.pkl"  # the .json beside it says how it was made


def dumped(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_are_read_back_exactly(tmp_path: Path, dtype: str, protocol: int) -> None:
    c = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tree = {
        "c": c,
        "nested": {"fortran": np.asfortranarray(c), "empty": np.zeros((0, 3), dtype), "strided": c[:, ::2]},
        "list": [c[0, 0], (np.ones((), dtype), c[0, 0, 1])],
        "big": c.astype(np.dtype(dtype).newbyteorder(">")),
    }
    found = read_array_pickle(dumped(tmp_path / "a.pkl", tree, protocol))
    expected = {
        "c": c,
        "nested/fortran": c,
        "nested/empty": np.zeros((0, 3), dtype),
        "nested/strided": c[:, ::2],
        "list/0": c[0, 0],
        "list/1/0": np.ones((), dtype),
        "list/1/1": c[0, 0, 1],
        "big": c,
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=name != "list/1/1", err_msg=name)


def test_plain_values_and_names_of_numpy_1_are_read(tmp_path: Path) -> None:
    tree = {"a": 1, "b": 2.5, "c": "text", "d": None, "e": True, "f": np.ones(2), 7: []}
    path = dumped(tmp_path / "a.pkl", tree, protocol=2)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    found = read_array_pickle(path)
    np.testing.assert_array_equal(found.pop("f"), np.ones(2))
    assert found == {"a": 1, "b": 2.5, "c": "text", "d": None, "e": True}


def test_jax_arrays_are_read_without_jax() -> None:
    entries = read_array_pickle(GENUINE)
    kernel = entries["agent/network/params/modules_critic/value_net/Dense_0/kernel"]
    assert isinstance(kernel, np.ndarray)
    assert (kernel.shape, kernel.dtype) == ((2, 6, 8), np.float32)
    assert int(np.asarray(entries["agent/step"])) == 1


def call(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that calls module.name with the arguments."""
    return b"\x80\x04c" + f"{module}\n{name}\n".encode() + pickle.dumps(arguments, 3)[2:-1] + b"R."


class Evil:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(canary: Path) -> dict[str, bytes]:
    touch = f"touch {canary}"
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    getattr_of_os = Evil(getattr, Evil(__import__, "os"), "system")

    class Chain:
        def __reduce__(self) -> Any:
            return eval, (code,)

    return {
        "os.system": pickle.dumps({"agent": Evil(os.system, touch)}),
        "eval": pickle.dumps({"agent": [np.ones(3), Chain()]}),
        "exec, protocol 0": pickle.dumps(Evil(exec, code), 0),
        "getattr": pickle.dumps([getattr_of_os, Evil(eval, code)]),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "dunder of an admitted name": b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.",
        "INST": b"(S" + repr(touch).encode() + b"\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS" + repr(touch).encode() + b"\no.",
        "NEWOBJ": b"\x80\x04cpathlib\nPath\n\x8c\x01x\x85\x81.",
        "numpy's runstring": call("numpy.testing._private.utils", "runstring", code, {}),
        "a memory map": call("numpy", "memmap", str(canary), "uint8", "w+", 0, (1,)),
        "a class for _reconstruct": b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n"
        + b"(cnumpy\nmatrix\nK\x00\x85C\x01btR.",
        "os.system inside a JAX array": b"\x80\x04cjax._src.array\n_reconstruct_array\n(cos\nsystem\n"
        + b"(S"
        + repr(touch).encode()
        + b"\nt}}tR.",
        "persistent id": b"\x80\x04Pcanary\n.",
    }


NAMED = {
    "os.system": "posix.system",
    "eval": "builtins.eval",
    "exec, protocol 0": "__builtin__.exec",
    "getattr": "builtins.getattr",
    "dotted name": "numpy.ndarray.tofile",
    "dunder of an admitted name": "numpy.dtype.__class__",
    "INST": "os.system",
    "OBJ": "os.system",
    "NEWOBJ": "pathlib.Path",
    "numpy's runstring": "numpy.testing._private.utils.runstring",
    "a memory map": "numpy.memmap",
    "a class for _reconstruct": "numpy.matrix",
    "os.system inside a JAX array": "os.system",
}
HARMFUL = ["os.system", "eval", "exec, protocol 0", "getattr", "INST", "OBJ", "numpy's runstring", "a memory map"]


@pytest.mark.parametrize("name", HARMFUL)
def test_an_ordinary_unpickler_runs_the_attacks(tmp_path: Path, name: str) -> None:
    """So the test below refuses real attacks."""
    canary = tmp_path / "canary"
    pickle.loads(attacks(canary)[name])
    assert canary.exists()


@pytest.mark.parametrize("name", sorted(attacks(Path("canary"))))
def test_attacks_are_refused_and_not_run(tmp_path: Path, name: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pkl"
    path.write_bytes(attacks(canary)[name])
    with pytest.raises(ForbiddenGlobal if name in NAMED else ArrayPickleError, match=NAMED.get(name, "evil.pkl")) as e:
        read_array_pickle(path)
    assert "evil.pkl" in str(e.value)
    assert not canary.exists()


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    array = np.array([None, 1], dtype=object)
    with pytest.raises(ArrayPickleError, match="dtype 'O8', expected one of b1"):
        read_array_pickle(dumped(tmp_path / "a.pkl", array))
    array[0] = Evil(os.system, f"touch {canary}")
    with pytest.raises(ArrayPickleError):
        read_array_pickle(dumped(tmp_path / "a.pkl", array))
    assert not canary.exists()


@pytest.mark.parametrize(
    "array", [np.zeros(2, "f4,i4"), np.array(["text"]), np.zeros(2, "M8[s]"), np.zeros(2, "c8"), np.zeros(2, "V4")]
)
def test_errors_name_other_dtypes(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ArrayPickleError, match="dtype"):
        read_array_pickle(dumped(tmp_path / "a.pkl", array))


def test_the_error_names_bfloat16(tmp_path: Path) -> None:
    """As JAX 0.10 writes it: the dtype's code is the class ml_dtypes.bfloat16."""
    path = tmp_path / "a.pkl"
    dtype = b"cnumpy\ndtype\n(cml_dtypes\nbfloat16\n\x89\x88tR(K\x03\x8c\x01<NNNK\x02K\x02K@tb"
    array = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    path.write_bytes(b"\x80\x04" + array + b"(K\x01K\x02\x85" + dtype + b"\x89C\x04\x80?\x80?tb.")
    with pytest.raises(ArrayPickleError, match="dtype bfloat16"):
        read_array_pickle(path)


PLAIN = (3, "<", None, None, None, -1, -1, 0)


def array_pickle(shape: Any, dtype_state: Any = PLAIN, size: int = 8) -> bytes:
    """A pickle of one float32 array of `size` bytes with the given shape and dtype state."""
    dimensions, stated = (pickle.dumps(value, 3)[2:-1] for value in (shape, dtype_state))
    return (
        b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01"
        + dimensions
        + b"cnumpy\ndtype\n(\x8c\x02f4\x89\x88tR"
        + stated
        + b"b\x89C"
        + bytes([size])
        + bytes(size)
        + b"tb."
    )


def test_an_array_with_false_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(array_pickle((2,)))
    np.testing.assert_array_equal(read_array_pickle(path)[""], np.zeros(2))
    for wrong in (
        array_pickle((3,)),
        array_pickle((10**30,)),
        array_pickle((-1, -2)),
        array_pickle((True, 2)),
        array_pickle((1,) * 64 + (2,)),
        array_pickle([2]),
        array_pickle((2,), (3, "|", None, None, None, 8, 8, 63)),  # flags that make numpy follow pointers
        array_pickle((2,), (3, "<", None, ("a",), {}, 4, 1, 0)),
    ):
        path.write_bytes(wrong)
        with pytest.raises(ArrayPickleError, match="an array"):
            read_array_pickle(path)


def test_files_that_would_exhaust_memory_are_refused(tmp_path: Path) -> None:
    cyclic: dict[str, Any] = {}
    cyclic["again"] = cyclic
    laughs: list[Any] = [0] * 10
    for _ in range(9):
        laughs = [laughs] * 10
    memo = b"\x80\x04Nr" + struct.pack("<I", 2**31) + b"."
    for data in (pickle.dumps(cyclic), pickle.dumps(laughs), memo, b"\x80\x04\x82\x01.", pickle.dumps({"a": {1, 2}})):
        path = tmp_path / "bomb.pkl"
        path.write_bytes(data)
        with pytest.raises(ArrayPickleError):
            read_array_pickle(path)


def test_missing_empty_and_truncated_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ArrayPickleError, match="cannot be read: No such file"):
        read_array_pickle(tmp_path / "nothing.pkl")
    whole, path = GENUINE.read_bytes(), tmp_path / "short.pkl"
    for length in (*range(0, 400, 7), len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArrayPickleError, match=r"short\.pkl: truncated or not a pickle"):
            read_array_pickle(path)


@given(damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(pickle.dumps({"a": np.ones(2), "b": [1, 2.0, "x"], "c": np.float32(3)}, protocol=4))
    for position, value in damage:
        data[position % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(bytes(data))
    with contextlib.suppress(ArrayPickleError):  # the only error that may be raised
        read_array_pickle(path)
