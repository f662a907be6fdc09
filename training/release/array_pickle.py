"""`read_array_pickle`: reads a pickle of nested arrays without running anything that is in it.

A pickle is a program that may name any function and call it. Here it may name only what rebuilds arrays as numpy and
JAX pickle them. Each of those names stands for a function of this module that checks its arguments and copies bytes.
Not even numpy's own functions are called: `dtype.__setstate__` trusts what the file says about the layout of memory.
Neither JAX nor any module that the file names is imported.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Leaf = np.ndarray | bool | int | float | str | None

DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
MAX_DEPTH, MAX_ENTRIES = 32, 100_000  # a checkpoint of the released code has 8 levels and about 120 entries


class ArrayPickleError(ValueError):
    """A file is damaged, or holds something other than nested arrays and plain values."""


class ForbiddenGlobal(ArrayPickleError):
    """A pickle names a function or class that arrays do not need; the message says which."""


def read_array_pickle(path: Path) -> dict[str, Leaf]:
    """The arrays and plain values of a pickle by their path in it, e.g. "agent/network/step".

    Items of lists and tuples are named by position.

    Raises:
        ArrayPickleError: the file cannot be read, is truncated, has an array of a dtype not in `DTYPES`, or holds
            something other than dicts, lists, tuples, arrays, numbers, strings and None.
        ForbiddenGlobal: it names a function or class that arrays do not need. That was neither imported nor called.
    """
    try:
        data = path.read_bytes()
        _check_opcodes(data)
        return _flatten(_Unpickler(io.BytesIO(data)).load())
    except ArrayPickleError as error:
        raise type(error)(f"{path}: {error}") from None
    except OSError as error:
        raise ArrayPickleError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged pickle may raise anything (documentation of `pickle.Unpickler`)
        raise ArrayPickleError(
            f"{path}: truncated or not a pickle of arrays: {type(error).__name__}: {error}"
        ) from None


def _check_opcodes(data: bytes) -> None:
    """Refuse opcodes that do harm without `find_class`.

    The memo grows to the largest index named, so nine bytes could allocate 34 GB. An extension code stands for whatever
    this process has registered under it.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(data):
            raise ArrayPickleError(f"memo index {argument} in a file of {len(data)} bytes")
        if opcode.name in ("EXT1", "EXT2", "EXT4"):
            raise ArrayPickleError(f"extension code {argument}")


class _Function:
    """The function that a name in the file stands for. The file can call it and pass it on, not alter it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ArrayPickleError("it gives a state to a function")


class _Dtype:
    """A `numpy.dtype` while it is being rebuilt."""

    __slots__ = ("numpy",)

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or code not in DTYPES:
            raise ArrayPickleError(f"an array has dtype {code!r}, expected one of {', '.join(DTYPES)}")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 8 or state[2:] != (None, None, None, -1, -1, 0):
            raise ArrayPickleError(f"an array's dtype is not a plain number's: {state!r:.200}")
        if state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """A `numpy.ndarray` while it is being rebuilt. A scalar is an array without axes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(shape, dtype, "F" if fortran else "C", data)

    def fill(self, shape: Any, dtype: Any, order: str, data: Any) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise ArrayPickleError("an array is not made of a dtype and bytes")
        if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
            raise ArrayPickleError(f"an array has shape {shape!r:.200}")
        if math.prod(shape) * dtype.numpy.itemsize != len(data):
            raise ArrayPickleError(f"an array of shape {shape} and dtype {dtype.numpy} has {len(data)} bytes")
        array: np.ndarray = np.ndarray(shape, dtype.numpy, data, order="F" if order == "F" else "C")
        self.value = array.astype(dtype.numpy.newbyteorder("="), order="C")


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> _Array:
    if kind is not _NDARRAY:
        raise ArrayPickleError("it asks for an array of a class of its own")
    return _Array()


def _scalar(dtype: Any, data: Any) -> _Array:
    array = _Array()
    array.fill((), dtype, "C", data)
    return array


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> _Array:
    array = _Array()
    array.fill(shape, dtype, order, data)
    return array


def _jax_array(function: Any, arguments: Any, state: Any, aval: Any) -> _Array:
    if function is not _RECONSTRUCT:
        raise ArrayPickleError("a JAX array is not made of a numpy array")
    array = _reconstruct(*arguments)
    array.__setstate__(state)
    return array


def _encode(text: Any, codec: Any) -> bytes:
    """Bytes as pickles of protocol 2 and below write them: latin1 text."""
    if not isinstance(text, str) or codec != "latin1":
        raise ArrayPickleError(f"bytes are encoded as {codec!r:.200}, expected 'latin1'")
    return text.encode("latin1")


_NDARRAY, _RECONSTRUCT = _Function(lambda *_: _Array()), _Function(_reconstruct)

# The only names that a file may use. numpy.core became numpy._core in numpy 2; protocol 5 uses `_frombuffer`.
_ADMITTED = {
    "__builtin__.bytes": _Function(lambda: b""),  # how protocol 2 writes empty bytes
    "_codecs.encode": _Function(_encode),
    "jax._src.array._reconstruct_array": _Function(_jax_array),
    "numpy.dtype": _Function(_Dtype),
    "numpy.ndarray": _NDARRAY,
    **{f"numpy.{core}.multiarray._reconstruct": _RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _Function(_scalar) for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _Function(_from_buffer) for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "ml_dtypes":
            raise ArrayPickleError(f"an array has dtype {name}, expected one of {', '.join(DTYPES)}")
        asked = f"{module}.{name}"
        if asked not in _ADMITTED:
            raise ForbiddenGlobal(f"it asks for {asked!r:.200}, which arrays do not need; nothing was run")
        return _ADMITTED[asked]


def _flatten(tree: Any) -> dict[str, Leaf]:
    flat: dict[str, Leaf] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while waiting:
        path, node = waiting.pop()
        name = "/".join(path)
        if len(path) > MAX_DEPTH or len(flat) + len(waiting) > MAX_ENTRIES:
            raise ArrayPickleError(f"it nests deeper than {MAX_DEPTH} or has more than {MAX_ENTRIES} entries")
        if isinstance(node, dict):
            if not all(isinstance(key, str | int) for key in node):
                raise ArrayPickleError(f"{name or 'the top'}: a dict has keys that are neither strings nor integers")
            waiting.extend(((*path, str(key)), value) for key, value in node.items())
        elif isinstance(node, list | tuple):
            waiting.extend(((*path, str(index)), value) for index, value in enumerate(node))
        elif isinstance(node, _Array) and node.value is not None:
            flat[name] = node.value
        elif node is None or isinstance(node, bool | int | float | str):
            flat[name] = node
        else:
            raise ArrayPickleError(f"{name or 'the top'}: neither an array nor a plain value")
    return flat
