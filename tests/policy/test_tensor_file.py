"""The reader of safetensors against the format's own library: on its files, odd headers and damaged bytes."""

from __future__ import annotations

import json
import mmap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from policy import CheckpointError, PolicyFile, save_policy
from policy.tensor_file import parse
from tests.policies import random_policy

patient = settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
PATH = Path("x.safetensors")
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0, 4), "c": torch.tensor(1.5), "d": torch.ones(5)}


def in_memory(data: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, max(len(data), 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[: len(data)] = data
    return memory


def compare(data: bytes) -> None:
    """What is read here is what the library reads; what the library refuses is refused."""
    try:
        expected = load(data)
    except (SafetensorError, ValueError, KeyError, AttributeError):
        with pytest.raises(CheckpointError, match=r"^x\.safetensors: "):
            parse(PATH, in_memory(data))
        return
    try:
        found, _ = parse(PATH, in_memory(data))
    except CheckpointError:
        return  # stricter, e.g. about other dtypes
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].view(torch.int32), tensor.view(torch.int32)), name  # bits, NaN too


def file_of(header: Any, body: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize("metadata", [None, {"key": "value", "other": "ü"}])
def test_files_of_the_library_are_read_exactly(metadata: dict[str, str] | None) -> None:
    data = save(TENSORS, metadata)
    found, read = parse(PATH, in_memory(data))
    assert read == (metadata or {})
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("padding", range(8))
def test_a_header_of_any_length_is_read(padding: int) -> None:
    """Others may not align their tensors as the library does."""
    data = save({"d": TENSORS["d"]})
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip() + b" " * padding
    whole = len(header).to_bytes(8, "little") + header + data[8 + length :]
    assert torch.equal(parse(PATH, in_memory(whole))[0]["d"], TENSORS["d"])
    compare(whole)


numbers = st.one_of(
    st.integers(-1, 20),
    st.sampled_from([2**31, 2**63, 2**64, 2**70, 1.0, True, None, "1"]),
    st.lists(st.integers(0, 3)),
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F32", "F32", "F16", "I64", "f32", "F8_E4M3", 1, None]),
        "shape": st.lists(st.integers(0, 4), max_size=3) | st.lists(numbers, max_size=2) | numbers,
        "data_offsets": st.tuples(st.integers(0, 16).map(lambda n: 4 * n), st.integers(0, 16).map(lambda n: 4 * n))
        | st.lists(numbers, max_size=3)
        | numbers,
    },
    optional={"more": st.just(1)},
)


@patient
@given(
    st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), entries | numbers | st.just({"k": "v"}), max_size=3),
    st.sampled_from([0, 16, 64, 63]),
)
def test_headers_are_judged_as_the_library_judges_them(header: dict[str, Any], size: int) -> None:
    compare(file_of(header, bytes(range(size))))


@patient
@given(st.integers(1, 6), st.integers(0, 24), st.integers(0, 24), st.integers(-8, 8))
def test_offsets_are_judged_as_the_library_judges_them(count: int, begin: int, end: int, more: int) -> None:
    first = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    second = {"dtype": "F32", "shape": [2], "data_offsets": [begin, end]}
    compare(file_of({"b": second, "a": first}, bytes(range(4 * count + 8 + max(more, -4 * count)))))


@patient
@given(st.data())
def test_damaged_files_are_judged_as_the_library_judges_them(data: st.DataObject) -> None:
    whole = bytearray(save(TENSORS, {"key": "value"}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    compare(bytes(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{" * 100_000, "can't be read"),
        ('{"a": 1, "a": 1}', "a name occurs twice"),
        ("[1]", "not an object"),
        ('{"__metadata__": {"a": 1}}', "does not map names to strings"),
        ('{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "whole numbers"),
        ('{"a": {"dtype": "F32", "shape": [1]}}', "needs dtype, shape and data_offsets"),
        ('{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}', "has dtype BF16, expected F32"),
    ],
)
def test_faults_are_named(header: str, message: str) -> None:
    text = header.encode()
    with pytest.raises(CheckpointError, match=message):
        parse(PATH, in_memory(len(text).to_bytes(8, "little") + text + bytes(4)))


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    """Nothing of the policy's size is copied, which is why the reader exists."""
    save_policy(random_policy(), tmp_path / "policy.safetensors")
    file = PolicyFile.read(tmp_path / "policy.safetensors")
    whole = torch.frombuffer(file.data, dtype=torch.uint8)
    first, last = whole.data_ptr(), whole.data_ptr() + len(whole)
    for tensor in file.policy().state_dict().values():
        assert first < tensor.data_ptr() < last


def test_a_file_may_be_read_in_any_thread(tmp_path: Path) -> None:
    save_policy(random_policy(), tmp_path / "policy.safetensors")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(PolicyFile.read(tmp_path / "policy.safetensors").policy()))
    thread.start()
    thread.join()
    for name, tensor in random_policy().state_dict().items():
        assert torch.equal(found[0].state_dict()[name], tensor)
