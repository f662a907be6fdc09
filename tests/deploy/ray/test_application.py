"""On a real local Ray: load starts a second replica, a killed replica loses no request, and actions are correct."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sorl_client import Action, Client, RetryPolicy

from kernels.backend import SampleBatch
from kernels.reference import ReferenceBackend
from policy import load_policy
from service.engine.engine import Engine
from service.errors import NotReady
from service.settings import Settings

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent.parent
MODEL = ROOT / "deploy" / "policies" / "cube-single.safetensors"
OBSERVATION = np.linspace(-1.0, 1.0, 28, dtype=np.float32)
ROBOTS, SECONDS = 8, 180


def children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # the process has ended
            continue
        found.setdefault(parent, []).append(int(stat.parent.name))
    return found


def replicas(pid: int) -> set[int]:
    """The replicas' processes among the descendants of `pid`."""
    tree, below = children(), [pid]
    for one in below:
        below.extend(tree.get(one, []))
    found = set()
    for one in below:
        try:
            title = Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::ServeReplica"):
            found.add(one)
    return found


class Robots:
    """Closed-loop clients, each in a thread, until stopped. Every request has its own seed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seeds = itertools.count()
        self._stop = threading.Event()
        self._answered = threading.Condition()
        self.asked = 0
        self.actions: dict[int, Action] = {}
        self.failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._drive) for _ in range(ROBOTS)]

    def __enter__(self) -> Robots:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, condition: Callable[[], Any]) -> Any:
        """Check `condition` after every reply until it returns something; fails after `SECONDS`."""
        with self._answered:
            return self._answered.wait_for(lambda: self.failures or condition(), SECONDS)

    def _drive(self) -> None:
        with Client(self._url, retry=RetryPolicy(attempts=10)) as client:
            while not self._stop.is_set():
                with self._answered:
                    seed = next(self._seeds)
                    self.asked += 1
                try:
                    action = client.act(OBSERVATION, num_candidates=1, num_steps=4, seed=seed)
                except Exception as error:
                    self.failures.append(error)
                    return
                with self._answered:
                    assert seed not in self.actions
                    self.actions[seed] = action
                    self._answered.notify_all()


@pytest.fixture(scope="module")
def served() -> Iterator[Any]:
    """Ray Serve with one replica, which adds a second as soon as there is any load."""
    from bench.ray_serve import ray_serving

    settings = {"model": str(MODEL), "precision": "fp32"}
    options = {"num_cpus": 1, "min_replicas": 1, "max_replicas": 2, "target_busy": 0.001, "settings": settings}
    with ray_serving(options) as serve:
        yield serve


def test_load_adds_a_replica_and_a_killed_replica_loses_no_request(served: Any) -> None:
    (first,) = replicas(served.pid)
    with Robots(served.url) as robots:
        assert robots.until(lambda: len(replicas(served.pid)) == 2), "no second replica for all that load"
        before = len(robots.actions)
        assert robots.until(lambda: len(robots.actions) >= before + 200)
        os.kill(first, signal.SIGKILL)
        assert robots.until(lambda: len(replicas(served.pid) - {first}) == 2), "the killed replica was not replaced"
        before = len(robots.actions)
        assert robots.until(lambda: len(robots.actions) >= before + 200)
    assert robots.failures == []
    assert len(robots.actions) == robots.asked
    assert sorted(robots.actions) == list(range(robots.asked))

    policy = load_policy(MODEL)
    batch = SampleBatch.of(np.tile(OBSERVATION, (robots.asked, 1)), 1, 4, range(robots.asked))
    expected = ReferenceBackend(policy).sample_and_score(batch).action
    served_actions = np.stack([robots.actions[seed].action for seed in range(robots.asked)])
    np.testing.assert_allclose(served_actions, expected, atol=1e-4)
    again = max(action.attempts for action in robots.actions.values())
    print(f"{robots.asked} requests, {again} attempts at most")


def test_errors_are_the_servers_own(served: Any) -> None:
    import httpx

    reply = httpx.post(f"{served.url}/act", json={"observation": [0.0]}, timeout=30)
    assert reply.status_code == 422
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["field"] == "observation"
    assert httpx.get(f"{served.url}/readyz", timeout=30).json()["status"] == "ready"


# Ray's modules cause deprecation warnings of pydantic at import.
ignore_rays_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@ignore_rays_warnings
def test_a_fraction_of_a_gpu_is_passed_to_ray() -> None:
    from deploy.ray.application import build

    application = build({"num_cpus": 3, "num_gpus": 0.5, "settings": {"model": str(MODEL)}})
    options = application._bound_deployment.ray_actor_options
    assert (options["num_cpus"], options["num_gpus"]) == (3, 0.5)


@ignore_rays_warnings
def test_a_replica_starts_warm_and_reports_its_load() -> None:
    from deploy.ray.application import Replica, create_warm_app

    async def life() -> dict[str, float]:
        replica = Replica()
        replica.app = create_warm_app(Settings(model=MODEL, threads=1))
        async with replica.app.router.lifespan_context(replica.app):
            await replica.check_health()
            return await replica.record_autoscaling_stats()

    told = asyncio.run(life())
    assert told["backlog_seconds"] == 0.0
    assert 0.0 <= told["busy"] <= 1.0


@ignore_rays_warnings
def test_a_replica_that_cannot_warm_up_does_not_start_and_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.ray.application import Replica, create_warm_app

    def fail(_: Engine) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Engine, "warm_up_steps", fail)

    async def life() -> None:
        replica = Replica()
        replica.app = create_warm_app(Settings(model=MODEL, threads=1))
        with pytest.raises(NotReady, match="warm-up failed"):
            async with replica.app.router.lifespan_context(replica.app):
                pass
        with pytest.raises(NotReady):
            await replica.check_health()

    asyncio.run(life())
