"""Policy files: round trips, and every fault that `load_policy` must detect, each in a file that has it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from policy import CheckpointError, PolicyFile, load_policy, policy_files, save_policy
from policy.checkpoint import METADATA_KEY
from tests.policies import random_policy

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.safetensors"
    save_policy(random_policy(), path)
    return path


def test_round_trip_is_exact(path: Path) -> None:
    original, loaded = random_policy(), load_policy(path)
    assert loaded.spec == original.spec
    assert loaded.version == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_tensor_names_are_plain(path: Path) -> None:
    names = set(load_file(path))
    assert {"actor.layers.0.weight", "critic.norms.0.bias", "observation_mean"} <= names


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(file: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_policy(random_policy(1), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def rewrite(path: Path, change: Callable[[Tensors], Tensors], spec: str | None = None) -> None:
    """Write the file again with changed tensors, or another spec."""
    metadata = {METADATA_KEY: random_policy().spec.to_json() if spec is None else spec}
    save_file(change(load_file(path)), path, metadata=metadata)


def with_tensor(name: str, value: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: value}


TENSOR_FAULTS: list[tuple[Callable[[Tensors], Tensors], str]] = [
    (lambda t: {n: v for n, v in t.items() if n != "actor.layers.1.bias"}, "missing tensor 'actor.layers.1.bias'"),
    (with_tensor("actor.layers.9.bias", torch.zeros(3)), "extra tensor 'actor.layers.9.bias'"),
    (with_tensor("actor.layers.1.bias", torch.zeros(31)), r"'actor.layers.1.bias' has shape \(31,\)"),
    (with_tensor("actor.layers.1.bias", torch.zeros(32, dtype=torch.float16)), "has dtype F16, expected F32"),
    (with_tensor("actor.layers.1.bias", torch.zeros(32, dtype=torch.int32)), "has dtype I32, expected F32"),
    (with_tensor("critic.layers.1.bias", torch.full((2, 32), float("nan"))), "'critic.layers.1.bias' has NaN"),
    (with_tensor("critic.layers.1.bias", torch.full((2, 32), float("-inf"))), "NaN or infinite"),
    (with_tensor("observation_std", torch.zeros(11)), "'observation_std' has values that are not positive"),
]


@pytest.mark.parametrize(("change", "message"), TENSOR_FAULTS)
def test_faulty_tensors(path: Path, change: Callable[[Tensors], Tensors], message: str) -> None:
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_policy(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        load_policy(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"\x80\x04\x95 a pickle", b"{}" * 100, b"\xff" * 64])
def test_not_safetensors(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        load_policy(path)


def test_trailing_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        load_policy(path)


def test_absent_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_policy(path)


def test_safetensors_of_something_else(path: Path) -> None:
    save_file(load_file(path), path)
    with pytest.raises(CheckpointError, match="not a policy: metadata key 'sorl_policy' is missing"):
        load_policy(path)


def changed_spec(**change: object) -> str:
    return json.dumps(json.loads(random_policy().spec.to_json()) | change)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (changed_spec(colour="red"), "unknown key 'colour'"),
        (changed_spec(format_version=99), "format_version is 99.*newer release"),
        (changed_spec(obs_dim=12), r"'actor.layers.0.weight' has shape .* expected \(32, 17\)"),
        (changed_spec(actor_hidden=[32, 32, 32]), "missing tensor 'actor.layers.3.bias'"),
        (changed_spec(actor_hidden=[32]), "extra tensor 'actor.layers.2.bias'"),
        (changed_spec(ensemble_size=3), "'critic.*' has shape"),
        (changed_spec(critic_layer_norm=False), "extra tensor 'critic.norms.0.bias'"),
        (changed_spec(critic_conditioning="none"), "'critic.layers.0.weight' has shape"),
        ("not json", "not JSON"),
    ],
)
def test_a_spec_that_is_damaged_or_disagrees_with_the_tensors(path: Path, spec: str, message: str) -> None:
    rewrite(path, lambda tensors: tensors, spec)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_policy(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("writes", ["in place", "longer"])
def test_a_file_that_is_written_to_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch, writes: str) -> None:
    """Another process writes between the first `fstat` of the file and the last."""
    fstat, calls = os.fstat, []

    def then_write(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        if not calls:
            with path.open("r+b") as file:
                file.seek(100 if writes == "in place" else 0, os.SEEK_SET if writes == "in place" else os.SEEK_END)
                file.write(b"torn")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        calls.append(descriptor)
        return status

    monkeypatch.setattr("os.fstat", then_write)
    with pytest.raises(CheckpointError, match="written to while it was read"):
        PolicyFile.read(path)


def test_the_policy_is_made_from_the_bytes_that_were_read_even_if_the_file_changes(path: Path) -> None:
    file = PolicyFile.read(path)
    save_policy(random_policy(1, obs_dim=5), path)
    policy = file.policy()
    assert (policy.spec.obs_dim, policy.version) == (11, file.version)
    assert torch.equal(
        policy.state_dict()["actor.layers.0.weight"], random_policy().state_dict()["actor.layers.0.weight"]
    )
    assert load_policy(path).version != file.version


def test_files_of_a_folder_in_order(path: Path) -> None:
    assert policy_files(path) == [path]
    for name in ("b.safetensors", "a.safetensors", ".hidden.safetensors", "notes.txt"):
        (path.parent / name).touch()
    assert [found.name for found in policy_files(path.parent)] == ["a.safetensors", "b.safetensors", path.name]


def test_a_folder_without_policies(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="a folder without any"):
        policy_files(tmp_path)
