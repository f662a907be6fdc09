"""Save and load policies: one `.safetensors` file each, with the spec as JSON in its metadata and nothing pickled."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from policy.errors import CheckpointError, SpecError
from policy.networks import Policy
from policy.spec import PolicySpec
from policy.tensor_file import parse

METADATA_KEY = "sorl_policy"
SUFFIX = ".safetensors"


def save_policy(policy: Policy, path: Path | str) -> str:
    """Write `policy` to `path` atomically. Returns its version: the sha256 of the file."""
    path = Path(path)
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in policy.state_dict().items()}
    data = save_tensors(tensors, metadata={METADATA_KEY: policy.spec.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class PolicyFile:
    """The bytes of a policy file, read once, so that the same bytes are hashed, checked and loaded.

    Attributes:
        path: where the file was read.
        data: its whole content, in memory of its own.
        version: sha256 of `data`.
    """

    path: Path
    data: mmap.mmap = field(repr=False)
    version: str

    @classmethod
    def read(cls, path: Path | str) -> PolicyFile:
        """Read and hash the file at `path`. Its content is checked by `policy`.

        Raises:
            CheckpointError: the file can't be read, or was written to during the read.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                before = os.fstat(file.fileno())
                if before.st_size == 0:
                    raise CheckpointError(f"{path}: truncated or not a safetensors file (0 bytes)")
                data = mmap.mmap(-1, before.st_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                count = file.readinto(data)
                after = os.fstat(file.fileno())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, count):
            raise CheckpointError(f"{path}: written to while it was read; replace a policy file by a rename")
        return cls(path, data, hashlib.sha256(data).hexdigest())

    def policy(self) -> Policy:
        """Parse and check the bytes. Returns and raises the same as `load_policy`. Its tensors are views of `data`."""
        path = self.path
        tensors, metadata = parse(path, self.data)
        if METADATA_KEY not in metadata:
            raise CheckpointError(f"{path}: safetensors, but not a policy: metadata key {METADATA_KEY!r} is missing")
        try:
            spec = PolicySpec.from_json(metadata[METADATA_KEY])
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None
        with torch.device("meta"):  # shapes only: no initial weights are drawn
            policy = Policy(spec, version=self.version)
        _check_tensors(path, policy.state_dict(), tensors)
        policy.load_state_dict(tensors, assign=True)
        return policy.eval().requires_grad_(False)


def load_policy(path: Path | str) -> Policy:
    """Load the policy in the file at `path`.

    Returns:
        The policy on the CPU in float32, in eval mode, without gradients, its `version` set.

    Raises:
        CheckpointError: the file can't be read, is truncated or is not safetensors; a tensor is missing, unexpected, of
            a wrong shape or dtype, or not finite; or the spec is damaged, of a newer format, or contradicts the
            tensors. The message names the file and the fault.
    """
    return PolicyFile.read(path).policy()


def policy_files(source: Path) -> list[Path]:
    """The policy files at `source`: the file itself, or the *.safetensors of a folder in alphabetical order.

    Raises:
        CheckpointError: the folder can't be read, or has no such file.
    """
    if not source.is_dir():
        return [source]
    try:
        found = sorted(path for path in source.iterdir() if path.suffix == SUFFIX and path.name[0] != ".")
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read: {error.strerror}") from None
    if not found:
        raise CheckpointError(f"{source}: a folder without any *{SUFFIX}")
    return found


def _check_tensors(path: Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    if missing or extra:
        faults = [f"missing tensor {name!r}" for name in missing[:3]] + [f"extra tensor {name!r}" for name in extra[:3]]
        raise CheckpointError(f"{path}: {', '.join(faults)} (the spec describes {len(expected)} tensors)")
    for name, tensor in sorted(found.items()):
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)} (from the spec)"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name!r} has NaN or infinite values")
    if (found["observation_std"] <= 0).any():
        raise CheckpointError(f"{path}: tensor 'observation_std' has values that are not positive")
