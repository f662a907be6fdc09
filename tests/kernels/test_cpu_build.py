"""The native engine built with sanitizers, and the build without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]

# Ragged batches of odd sizes, on every instruction set, in both precisions, with one thread and with more than cores.
EXERCISE = """
import importlib.util, sys
import numpy as np
import torch
from kernels import cpu
from kernels.backend import SampleBatch
from kernels.cpu import learning, updates
from kernels.cpu.learning import LearningNetworks
from kernels.cpu.updates import NativeUpdates
from tests.policies import random_policy

spec = importlib.util.spec_from_file_location("kernels.cpu._engine", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
cpu._native = learning._native = updates._native = lambda: native
rng = np.random.default_rng(0)
for case, isa in enumerate(native.supported_isas() * 4):
    widths = [tuple(int(w) for w in rng.integers(1, 80, rng.integers(1, 5))) for _ in range(2)]
    sizes = dict(zip(("actor_hidden", "critic_hidden"), widths))
    obs_dim, action_dim, members = (int(rng.integers(1, most)) for most in (120, 25, 6))
    policy = random_policy(case, obs_dim=obs_dim, action_dim=action_dim, ensemble_size=members,
                           critic_layer_norm=case % 3 > 0, q_agg=("mean", "min")[case % 2], **sizes)
    policy.requires_grad_(True)
    requests = int(rng.integers(1, 9))
    batch = SampleBatch.of(rng.standard_normal((requests, obs_dim)).astype(np.float32), rng.integers(1, 150, requests),
                           rng.integers(1, 9, requests), range(requests), return_candidates=case % 2 == 0)
    for precision in ("fp32", "bf16"):
        for threads in (1, 2, 5):
            cpu.CpuBackend(policy, precision, threads, isa).sample_and_score(batch)
            networks, rows = LearningNetworks(precision, threads, isa), int(rng.integers(1, 150))
            actor, critic = networks.actor(policy.actor), networks.critic(policy.critic)
            state, column = torch.randn(rows, obs_dim), torch.ones(rows, 1)
            action = torch.randn(rows, action_dim)
            action = action + actor(actor.observation_share(state), action, column, column)
            torch.autograd.backward(critic(state, action, column).sum())
            optimizer = torch.optim.Adam(policy.parameters())
            NativeUpdates(networks.pool, isa).clip_and_step(optimizer, 1.0)
print("finished")
"""


def build(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", target, "--build-temp", target / "tmp"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("sanitizers", "runtimes", "instrumented"),
    [
        pytest.param("address,undefined", ("libasan.so", "libubsan.so"), b"__asan_report_load", id="memory"),
        pytest.param("thread", ("libtsan.so",), b"__tsan_read", id="threads"),
    ],
)
def test_sanitizers_find_nothing(
    tmp_path: Path, sanitizers: str, runtimes: tuple[str, ...], instrumented: bytes
) -> None:
    flags = f"-fsanitize={sanitizers} -fno-sanitize-recover=all -g -O1"
    # setuptools reads CFLAGS or CXXFLAGS for C++, depending on its version.
    built = build(tmp_path, CFLAGS=flags, CXXFLAGS=flags, LDFLAGS=f"-fsanitize={sanitizers}")
    assert built.returncode == 0, built.stderr
    (library,) = tmp_path.glob("kernels/cpu/_engine*.so")
    assert instrumented in library.read_bytes(), "built without sanitizers"
    preloaded = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in (*runtimes, "libstdc++.so")
    ]
    environment = {
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaks at exit
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",  # torch's own, whose library is not instrumented
    }
    ran = subprocess.run(
        [sys.executable, "-c", EXERCISE, str(library)],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "finished" in ran.stdout, ran.stderr[-4000:]
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "runtime error" not in ran.stderr


def test_without_a_compiler_the_build_succeeds_and_leaves_the_engine_out(tmp_path: Path) -> None:
    built = build(tmp_path, CC="/nonexistent/cc", CXX="/nonexistent/c++")
    assert built.returncode == 0, built.stderr
    assert not list(tmp_path.glob("kernels/cpu/_engine*.so"))
