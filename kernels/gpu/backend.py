"""`TritonBackend`: `kernels.backend.Backend` on a CUDA device, or under Triton's interpreter on the CPU."""

from __future__ import annotations

import numpy as np
import torch

from kernels.backend import (
    BackendUnavailable,
    DeviceLost,
    DeviceOutOfMemory,
    Float32,
    SampleBatch,
    SampleResult,
    UnwrittenOutput,
)
from kernels.gpu.arena import UNWRITTEN
from kernels.gpu.bucket import Bucket
from kernels.gpu.check import check_against_reference
from kernels.gpu.configuration import Tile, TritonOptions, choose_tile
from kernels.gpu.launch import INTERPRETED
from kernels.gpu.packing import pack_policy, padded
from policy import Policy

TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
"""The largest error allowed at warm-up: the mean of actions' errors, and of values' errors relative to their size."""


class TritonBackend:
    """`Backend` by one kernel launch per batch.

    Args:
        policy: the policy; its weights are packed into a copy.
        device: "cuda", "cuda:1", ...; or "cpu" if TRITON_INTERPRET=1 was set before triton was imported.
        options: precision, replay, split mode.

    Raises:
        BackendUnavailable: no such device, or the CPU without the interpreter.
        DeviceOutOfMemory: no memory for the weights.
    """

    def __init__(self, policy: Policy, device: str = "cuda", options: TritonOptions | None = None) -> None:
        self._device = torch.device(device)
        if self._device.type != "cuda" and not INTERPRETED:
            raise BackendUnavailable(
                f"backend 'triton' needs a CUDA device, not {device!r}; "
                "with TRITON_INTERPRET=1 it runs on the CPU, slowly"
            )
        if self._device.type == "cuda" and INTERPRETED:
            raise BackendUnavailable("backend 'triton': with TRITON_INTERPRET set, the device must be cpu")
        self.options = options or TritonOptions()
        self._policy = policy
        self.spec = policy.spec
        self._mean = policy.observation_mean.detach().cpu().float().numpy()
        self._std = policy.observation_std.detach().cpu().float().numpy()
        dtype = torch.bfloat16 if self.options.precision == "bf16" else torch.float32
        self._scratch = torch.float32 if INTERPRETED else dtype
        with _typed_errors():
            self._packed = pack_policy(policy, self._device, dtype, self._scratch)
            self.stream: torch.cuda.Stream | None = None
            if self._device.type == "cuda":
                self.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._card = _card(self._device)
        self._buckets: dict[tuple[Tile, int, int], Bucket] = {}
        self.engine = self._name()

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        """See `Backend`.

        Raises:
            DeviceOutOfMemory: no memory for a batch of this size.
            DeviceLost: the device, its context or its driver is gone; no later call can succeed.
            UnwrittenOutput: the kernel left part of its result unwritten.
        """
        observation = batch.observation
        if self.spec.normaliser == "standardise":
            observation = (observation - self._mean) / self._std
        order = np.argsort(-batch.num_steps, kind="stable")  # puts rows of equal M into the same tiles
        with _typed_errors():
            bucket = self.bucket(batch)
            bucket.run(batch, observation, order)
            rows = int(batch.num_candidates.sum())
            candidates = bucket.candidates(rows) if batch.return_candidates else (None, None)
        return _result(batch, bucket, order, *candidates)

    def check(self) -> None:
        """Compute a fixed batch. Raises BackendMismatch if it differs from the reference."""
        check_against_reference(self, self._policy, TOLERANCE[self.options.precision])

    def bucket(self, batch: SampleBatch) -> Bucket:
        """The buffers for a batch of this size, created at its first use. Sizes are rounded up to powers of two."""
        rows = int(batch.num_candidates.sum())
        tile = choose_tile(rows, self._card, self.options)
        key = (tile, _power_of_two(len(batch)), padded(_power_of_two(rows), tile.rows))
        if key not in self._buckets:
            self._buckets[key] = Bucket(
                self.spec, self._packed, tile, key[1], key[2], self._device, self._scratch, self.stream
            )
        return self._buckets[key]

    def _name(self) -> str:
        """The engine name. Backends of equal names compute the same bits, unless the name ends in "fastest"."""
        fastest = self.options.replay == "fastest"
        tile = "fastest" if fastest else choose_tile(1, self._card, self.options).name.split("/")[0]
        return f"triton/{self.options.precision}/{self._card}/{tile}"


def _card(device: torch.device) -> str:
    """The name of the device's architecture, as in `configuration.CARDS`: "sm_90", "gfx942"; or "interpreter"."""
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip is not None:
        name: str = torch.cuda.get_device_properties(device).gcnArchName
        return name.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


class _typed_errors:
    """Context manager: turns errors of torch and the driver into those of `kernels.backend`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            raise DeviceOutOfMemory(str(error).splitlines()[0]) from error
        if isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA" in str(error)):
            raise DeviceLost(str(error).splitlines()[0]) from error


def _result(
    batch: SampleBatch, bucket: Bucket, order: np.ndarray, rows: Float32 | None, spreads: Float32 | None
) -> SampleResult:
    """The bucket's results, in the batch's order.

    Raises:
        UnwrittenOutput: an array still has a value that was staged to detect this.
    """
    requests = len(batch)
    reply = bucket.stage.reply
    counts = batch.num_candidates[order].astype(np.int64)
    starts = np.cumsum(counts) - counts
    values = reply("row_value")[: int(counts.sum())].copy()
    nonfinite, index, action = reply("nonfinite")[:requests], reply("index")[:requests], reply("action")[:requests]
    value, deviation = reply("value")[:requests], reply("deviation")[:requests]
    written = np.isfinite(value) & np.isfinite(deviation) & np.isfinite(action).all(1)
    written &= np.logical_and.reduceat(np.isfinite(values), starts)
    if (nonfinite == UNWRITTEN).any() or (index == UNWRITTEN).any() or not (written | (nonfinite == 1)).all():
        raise UnwrittenOutput("the kernel left part of its result unwritten")
    position = np.argsort(order, kind="stable")  # request -> its position in the staged order
    with np.errstate(all="ignore"):  # values of requests that fail may overflow
        sums, squares = np.add.reduceat(values, starts), np.add.reduceat(values * values, starts)

    def split(array: Float32) -> list[Float32]:
        return [array[starts[p] : starts[p] + counts[p]] for p in position]

    return SampleResult(
        action=action[position],
        q=value[position],
        q_std=deviation[position],
        index=index[position],
        q_first=values[starts][position],
        q_sum=sums[position],
        q_sumsq=squares[position],
        nonfinite=nonfinite[position] != 0,
        candidates=None if rows is None else split(rows),
        candidate_q=None if rows is None else split(values),
        candidate_q_std=None if spreads is None else split(spreads),
    )
