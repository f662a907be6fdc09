"""`sorl-bench gpu`: on a CUDA device, check the GPU kernel and time it against torch.

The steps are: the backend's comparison with the reference in every mode (a mode that fails is reported and not timed);
median times by device events at the points of docs/performance.md, with the share of the GPU's floor if the model knows
the GPU; and POST /act from end to end. One report has all results.
"""

from __future__ import annotations

import argparse
import copy
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.model import CARDS, POINTS, Network, floor_seconds
from bench.table import add_json_option, print_table, write_json
from kernels.gpu.configuration import TritonOptions
from policy import CheckpointError, Policy, load_policy

if TYPE_CHECKING:
    from kernels.gpu.backend import TritonBackend

MODES = {
    "fp32": TritonOptions(precision="fp32"),
    "exact": TritonOptions(),
    "exact-split": TritonOptions(split=True),
    "fastest": TritonOptions(replay="fastest"),
    "split": TritonOptions(split=True, replay="fastest"),
}
WARM_UPS, REPEATS = 20, 200
TILE_REQUESTS = tuple(2**power for power in range(10))
"""Requests of (32, 4) per batch, to find the batch sizes at which another tile becomes faster."""
CLIENTS = (16, 64)
"""Clients of the closed loops on POST /act, if wrk is installed."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0 if all modes are correct, 1 if one is not, 2 if it can't run."""
    parser = argparse.ArgumentParser(prog="sorl-bench gpu", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("deploy/policies/cube-single.safetensors"))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES), help="default: all")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile, which takes minutes per shape"
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=500,
        help="number of POST /act requests at the end, sent one by one; then closed loops of 16 and 64 clients if wrk "
        "is installed; 0: none",
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    try:
        policy = load_policy(options.model)
    except CheckpointError as error:
        return _refuse(str(error))
    missing = _missing()
    if missing is not None:
        return _refuse(missing)
    report = _device()
    print(f"{report['device']}, {options.model}\n")
    report["check"], backends = check_modes(policy, options.modes)
    print_table(report["check"])
    print()
    report["times"] = [time_point(policy, backends, point, compiled=not options.no_compile) for point in POINTS]
    print_table(report["times"])
    report["tiles"] = [time_tiles(backends, requests) for requests in TILE_REQUESTS]
    print()
    print_table(report["tiles"])
    if options.requests:
        report["act"] = _serve(options.model, policy, options.requests, list(backends))
        print()
        print_table(report["act"])
    write_json(options.json, report)
    return 0 if len(backends) == len(options.modes) else 1


def _missing() -> str | None:
    """The reason why this machine can't run it, or None."""
    import torch

    try:
        import triton
    except ImportError:
        return "the package triton is missing: pip install 'sorl-serve[gpu]'"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} has no CUDA device. With a GPU and torch's CUDA build, this checks the kernel "
            "against the reference and times it; `sorl-bench aot` and `sorl-bench model` need no GPU"
        )
    if triton.knobs.runtime.interpret:
        return "TRITON_INTERPRET is set, so the kernel would run on the CPU: unset it"
    return None


def _refuse(reason: str) -> int:
    print(f"sorl-bench gpu: error: {reason}", file=sys.stderr)
    return 2


def _device() -> dict[str, Any]:
    import torch

    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "python": platform.python_version(),
    }


def check_modes(policy: Policy, modes: list[str]) -> tuple[list[dict[str, str]], dict[str, TritonBackend]]:
    """Each mode's verdict, and the backends of the correct modes."""
    from kernels.backend import DeviceFailure
    from kernels.gpu.backend import TritonBackend

    rows, backends = [], {}
    for mode in modes:
        backend = TritonBackend(policy, "cuda", MODES[mode])
        try:
            backend.check()
        except DeviceFailure as error:
            rows.append({"mode": mode, "engine": backend.engine, "verdict": f"WRONG: {error}"})
        else:
            rows.append({"mode": mode, "engine": backend.engine, "verdict": "is the reference"})
            backends[mode] = backend
    return rows, backends


def time_point(
    policy: Policy, backends: dict[str, TritonBackend], point: tuple[int, int, int], compiled: bool
) -> dict[str, Any]:
    """A row of the table: median microseconds of one batch by torch and by each mode."""
    import torch

    from bench.peers import graphed, torch_sampler

    requests, candidates, steps = point
    device = torch.device("cuda")
    peer = copy.deepcopy(policy).to(device=device, dtype=torch.bfloat16)
    sample = torch_sampler(peer, candidates, steps)
    observation = torch.randn(requests, policy.spec.input_dim, device=device, dtype=torch.bfloat16)
    noise = torch.randn(requests * candidates, policy.spec.chunk_dim, device=device, dtype=torch.bfloat16)
    row: dict[str, Any] = {"R, N, M": ", ".join(map(str, point))}
    with torch.inference_mode():
        row["eager us"] = _median(lambda: sample(observation, noise.normal_()))
        row["graphed us"] = _median(graphed(sample, observation, noise))
        if compiled:
            fast = torch.compile(sample, mode="max-autotune")
            row["compiled us"] = _median(lambda: fast(observation, noise.normal_()))
    for mode, backend in backends.items():
        row[f"{mode} us"] = _median_of_backend(backend, point)
    best = min([row[f"{mode} us"] for mode in backends] or [float("nan")])
    network, card = (
        _network(policy),
        next((c for name, c in CARDS.items() if name in torch.cuda.get_device_name()), None),
    )
    if card is not None:
        row["of floor"] = f"{100e6 * floor_seconds(card, network, requests, requests * candidates, steps) / best:.1f} %"
    return row


def time_tiles(backends: dict[str, TritonBackend], requests: int) -> dict[str, Any]:
    """A row of the table of tiles: median microseconds of each mode for `requests` requests of (32, 4)."""
    times = {f"{mode} us": _median_of_backend(backend, (requests, 32, 4)) for mode, backend in backends.items()}
    return {"rows": 32 * requests, **times}


def _network(policy: Policy) -> Network:
    spec = policy.spec
    return Network(spec.input_dim, spec.chunk_dim, max(spec.actor_hidden), len(spec.actor_hidden), spec.ensemble_size)


def _median_of_backend(backend: TritonBackend, point: tuple[int, int, int]) -> float:
    """Median microseconds of the backend's CUDA graph: copy in, kernel, copy out."""
    import numpy as np
    import torch

    from kernels.backend import SampleBatch

    requests, candidates, steps = point
    observation = np.zeros((requests, backend.spec.input_dim), np.float32)
    batch = SampleBatch.of(observation, candidates, steps, range(requests))
    backend.sample_and_score(batch)
    bucket = backend.bucket(batch)
    with torch.cuda.stream(backend.stream):
        return _median(bucket.replay)


def _median(run: Callable[[], Any]) -> float:
    """Median microseconds of `run` on the current stream, by device events. They include the time that the device waits
    for the host."""
    import torch

    for _ in range(WARM_UPS):
        run()
    torch.cuda.synchronize()
    pairs = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(end) * 1e3 for start, end in pairs)
    return float(times[len(times) // 2])


def server_flags(mode: str) -> tuple[str, ...]:
    """The flags with which `sorl-serve` computes as `mode` does; "reference" is eager torch on the GPU."""
    if mode == "reference":
        return ("--backend", "reference", "--device", "cuda")
    chosen = MODES[mode]
    flags = ("--backend", "triton", "--device", "cuda", "--precision", chosen.precision)
    return (*flags, "--triton-replay", chosen.replay, "--triton-split", str(chosen.split).lower())


def _serve(model: Path, policy: Policy, requests: int, modes: list[str]) -> list[dict[str, Any]]:
    """Latency and throughput of POST /act on a real server, for the reference and each correct mode."""
    from bench.latency import act_latency

    budget = policy.spec.default_budget
    observation = [float(value) for value in policy.observation_mean]
    clients = CLIENTS if shutil.which("wrk") else ()
    rows = []
    for mode in ["reference", *modes]:
        for n, m in dict.fromkeys([(budget.num_candidates, budget.num_steps), (32, 4)]):
            found = act_latency(model, observation, n, m, requests, *server_flags(mode), clients=clients)
            rows.append({"POST /act": mode, "N, M": f"{n}, {m}", **found})
    return rows


if __name__ == "__main__":
    sys.exit(main())
