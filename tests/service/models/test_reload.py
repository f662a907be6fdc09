"""New versions under traffic: who gets which, what a bad file does, what leaves memory."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file
from sorl_client import AsyncClient, VersionGone
from sorl_client import ReloadFailed as ClientReloadFailed

from kernels.backend import BackendMismatch, BackendUnavailable, DeviceOutOfMemory, SampleBatch, SampleResult
from kernels.choice import create_backend
from kernels.reference import ReferenceBackend
from policy import ObservationKey, Policy, load_policy
from policy.checkpoint import METADATA_KEY
from service.errors import ReloadFailed
from service.models.reload import Reload
from service.timing import BatchSize
from tests.policies import random_policy
from tests.service.waiting import WAIT, until

pytestmark = pytest.mark.anyio
KEY = {"authorization": "Bearer sesame"}

Rows = Callable[[int], list[list[float]]]


async def reload(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    response = await client.post(f"/models/{name}/reload", headers=KEY)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


async def act(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/act", json=fields)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


async def counted(client: httpx.AsyncClient, model: str, outcome: str) -> float:
    labels = {"model": model, "outcome": outcome}
    for family in text_string_to_metric_families((await client.get("/metrics")).text):
        for sample in family.samples:
            if sample.name == "sorl_reloads_total" and sample.labels == labels:
                return float(sample.value)
    return 0.0


class Truth:
    """What each version answers, in float64, by the definition and without the service's code."""

    def __init__(self) -> None:
        self._policies: dict[str, tuple[Policy, ReferenceBackend]] = {}

    def add(self, path: Path) -> str:
        policy = load_policy(path)
        self._policies[policy.version] = policy, ReferenceBackend(load_policy(path), dtype=torch.float64)
        return policy.version

    def check(self, observation: list[float], reply: dict[str, Any]) -> None:
        policy, backend = self._policies[reply["model_version"]]
        assert reply["model"] == policy.spec.name
        n, m = reply["num_candidates"], reply["num_steps"]
        result = backend.sample_and_score(SampleBatch.of(np.array([observation]), n, m, reply["seed"]))
        np.testing.assert_allclose(reply["action"], policy.spec.action_to_environment(result.action)[0], atol=1e-5)
        np.testing.assert_allclose(reply["q"], result.q[0], rtol=1e-4, atol=1e-5)


@pytest.fixture
async def client(serve: Any, write: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serves the folder with `cube` and `maze`."""
    folder = write("cube", 1).parent
    write("maze", 2, obs_dim=4)
    async with serve(model=folder, admin_key="sesame") as client:
        yield client


@pytest.fixture
def no_gc() -> Iterator[None]:
    """A server freezes what it loaded at its start: a cycle in it would never be collected."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_a_folder_is_served_by_name(client: httpx.AsyncClient, write: Any, observations: Rows) -> None:
    truth = Truth()
    versions = {name: truth.add(write(name, seed, **dims)) for name, seed, dims in OF_FOLDER}
    listed = (await client.get("/models")).json()["models"]
    assert {model["name"]: model["version"] for model in listed} == versions
    row = observations(1)[0]
    for fields in ({}, {"model": "cube"}, {"model": "cube", "model_version": versions["cube"]}):
        reply = await act(client, observation=row, seed=3, **fields)
        assert reply["model_version"] == versions["cube"]
        truth.check(row, reply)
    reply = await act(client, observation=row[:4], model="maze")
    assert reply["model_version"] == versions["maze"]
    truth.check(row[:4], reply)
    response = await client.post("/act", json={"observation": row, "model": "maze"})
    assert (response.status_code, response.json()["field"]) == (422, "observation")
    response = await client.post("/act", json={"observation": row, "model": "mace"})
    assert (response.status_code, response.json()["code"]) == (404, "unknown_model")


OF_FOLDER: list[tuple[str, int, dict[str, int]]] = [("cube", 1, {}), ("maze", 2, {"obs_dim": 4})]


async def test_each_model_says_what_it_is_in_one_series(client: httpx.AsyncClient, write: Any) -> None:
    write("cube", 5)
    await reload(client, "cube")
    listed = (await client.get("/models")).json()["models"]
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    (labels,) = (
        [sample.labels for sample in family.samples] for family in families if family.name == "sorl_model_info"
    )
    shown = {label["name"]: label for label in labels}
    assert len(labels) == 2
    for model in listed:
        assert shown[model["name"]] == {key: model[key] for key in ("name", "version", "engine")}


async def test_reload_swaps_the_version_and_says_so(client: httpx.AsyncClient, write: Any, observations: Rows) -> None:
    truth, row = Truth(), observations(1)[0]
    before = truth.add(write("cube", 1))
    after = truth.add(write("cube", 3))
    assert await reload(client, "cube") == {
        "model": "cube",
        "model_version": after,
        "previous_version": before,
        "outcome": "swapped",
    }
    for fields, version in (({}, after), ({"model_version": before}, before), ({"model_version": after}, after)):
        reply = await act(client, observation=row, **fields)
        assert reply["model_version"] == version
        truth.check(row, reply)
    described = (await client.get("/models/cube")).json()
    assert described["version"] == after
    ((older,),) = (described["older_versions"],)
    assert older["version"] == before
    assert 0 < older["seconds_left"] <= 60
    assert await counted(client, "cube", "swapped") == 1


async def test_an_unchanged_file_is_left_alone(client: httpx.AsyncClient) -> None:
    reply = await reload(client, "maze")
    assert reply["outcome"] == "unchanged"
    assert reply["model_version"] == reply["previous_version"]
    assert await counted(client, "maze", "unchanged") == 1


def counting_backends() -> tuple[Callable[..., Any], list[str]]:
    """`create_backend`, and the versions of the policies that it was called with."""
    made: list[str] = []

    def make(policy: Policy, *choices: Any) -> Any:
        made.append(policy.version)
        return create_backend(policy, *choices)

    return make, made


async def test_back_to_a_version_in_memory_needs_no_second_copy(serve: Any, write: Any) -> None:
    make, made = counting_backends()
    async with serve(make, model=write("cube", 1), admin_key="sesame") as client:
        write("cube", 2)
        first = (await reload(client, "cube"))["previous_version"]
        write("cube", 1)
        reply = await reload(client, "cube")
        assert (reply["outcome"], reply["model_version"]) == ("restored", first)
        assert len(made) == 2


@pytest.mark.slow
async def test_no_request_fails_while_versions_change(
    client: httpx.AsyncClient, write: Any, observations: Rows
) -> None:
    """Eight connections ask without a pause; a version is replaced as soon as each of them has met it."""
    truth, rows = Truth(), observations(8)
    order = [truth.add(write("cube", 1))]
    answers: list[list[dict[str, Any]]] = [[] for _ in rows]
    answered = asyncio.Condition()
    done = False

    async def ask_on(index: int) -> None:
        while not done:
            reply = await act(client, observation=rows[index], num_candidates=1 + index, model="cube")
            async with answered:
                answers[index].append(reply)
                answered.notify_all()

    def all_met(version: str) -> bool:
        return all(replies and replies[-1]["model_version"] == version for replies in answers)

    asking = [asyncio.ensure_future(ask_on(index)) for index in range(8)]
    for seed in range(10, 15):
        async with answered:
            await asyncio.wait_for(answered.wait_for(lambda: all_met(order[-1])), WAIT)
        order.append(truth.add(write("cube", seed)))
        assert (await reload(client, "cube"))["outcome"] == "swapped"
    async with answered:
        await asyncio.wait_for(answered.wait_for(lambda: all_met(order[-1])), WAIT)
    done = True
    await asyncio.gather(*asking)
    for row, replies in zip(rows, answers, strict=True):
        met = [order.index(reply["model_version"]) for reply in replies]
        assert met == sorted(met)
        assert set(met) == set(range(6))
        for reply in replies:
            truth.check(row, reply)


async def test_what_was_accepted_for_a_version_is_answered_by_it(
    serve: Any, gated: Any, write: Any, observations: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue of full batches, each held until the reload's next call waits: the swap comes in between.

    The queue is filled up before every call, so that it outlasts any number of them.
    """
    make_backend, made = gated
    truth, row = Truth(), observations(1)[0]
    path = write("cube", 1)
    before = truth.add(path)
    async with serve(make_backend, model=path, admin_key="sesame", max_batch_rows=8, version_grace_seconds=0) as client:
        runtime = client.app.state.runtime
        call_in_worker, call_waits, swapped = runtime.scheduler.call, threading.Event(), threading.Event()

        def send(count: int) -> None:
            seeds = range(len(accepted), len(accepted) + count)
            accepted.extend(asyncio.ensure_future(act(client, observation=row, seed=seed)) for seed in seeds)

        async def call_and_tell(function: Callable[[], Any]) -> Any:
            send(29 - runtime.scheduler.queued)
            await until(lambda: runtime.scheduler.queued >= 20)  # the worker may take some of the 29 meanwhile
            call = asyncio.ensure_future(call_in_worker(function))
            await asyncio.sleep(0)  # lets it reach the scheduler
            call_waits.set()
            return await call

        def hold(batch: SampleBatch, result: SampleResult) -> SampleResult:
            assert call_waits.wait(WAIT)
            if not swapped.is_set():
                call_waits.clear()
            return result

        monkeypatch.setattr(runtime.reloader, "_call_in_worker", call_and_tell)
        made[0].shut()
        made[0].spoil = hold
        accepted: list[asyncio.Future[Any]] = []
        send(30)
        await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        await until(lambda: runtime.scheduler.queued == 29)
        after = truth.add(write("cube", 2))
        made[0].gate.set()
        assert (await reload(client, "cube"))["model_version"] == after
        assert not all(future.done() for future in accepted)
        response = await client.post("/act", json={"observation": row, "model_version": before})
        assert (response.status_code, response.json()["code"]) == (409, "version_gone")
        swapped.set()
        call_waits.set()
        assert (await act(client, observation=row, priority=0))["model_version"] == after
        for reply in await asyncio.gather(*accepted):
            assert reply["model_version"] == before
            truth.check(row, reply)


async def test_reloads_of_the_same_file_at_once_load_it_once(serve: Any, write: Any) -> None:
    make, made = counting_backends()
    async with serve(make, model=write("cube", 1), admin_key="sesame") as client:
        write("cube", 2)
        replies = await asyncio.gather(*(reload(client, "cube") for _ in range(5)))
    assert sorted(reply["outcome"] for reply in replies) == ["swapped"] + ["unchanged"] * 4
    assert len(made) == 2


async def test_the_version_before_leaves_memory_with_its_grace(
    serve: Any, write: Any, observations: Rows, no_gc: None
) -> None:
    backends: list[weakref.ref[Any]] = []
    policies: list[weakref.ref[Any]] = []
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()

    def make(policy: Policy, *choices: Any) -> Any:
        backend = create_backend(policy, *choices)
        if not backends:
            weakref.finalize(backend, loop.call_soon_threadsafe, gone.set)
        backends.append(weakref.ref(backend))
        policies.append(weakref.ref(policy))
        return backend

    row = observations(1)[0]
    async with serve(make, model=write("cube", 1), admin_key="sesame", version_grace_seconds=0.2) as client:
        await act(client, observation=row)  # the last batch is this version's
        write("cube", 2)
        await reload(client, "cube")
        await asyncio.wait_for(gone.wait(), WAIT)
        assert [backend() is None for backend in backends] == [True, False]
        assert [policy() is None for policy in policies] == [True, False]
        write("cube", 3)
        await reload(client, "cube")
        assert backends[2]() is not None
        await until(lambda: backends[1]() is None)  # nothing is asked of it: its grace alone ends it


async def test_a_pinned_request_that_was_the_last_batch_keeps_nothing_in_memory(
    serve: Any, write: Any, observations: Rows, no_gc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends: list[weakref.ref[Any]] = []

    def make(policy: Policy, *choices: Any) -> Any:
        backend = create_backend(policy, *choices)
        backends.append(weakref.ref(backend))
        return backend

    async with serve(make, model=write("cube", 1), admin_key="sesame") as client:
        write("cube", 2)
        first = (await reload(client, "cube"))["previous_version"]
        await act(client, observation=observations(1)[0], model_version=first)
        catalog = client.app.state.runtime.catalog
        now = catalog._clock() + 61
        monkeypatch.setattr(catalog, "_clock", lambda: now)
        assert backends[0]() is not None
        catalog.expire()
        await until(lambda: backends[0]() is None)  # the worker may still be leaving its last batch
        assert backends[1]() is not None


async def test_without_a_grace_an_idle_server_holds_one_version(serve: Any, write: Any, no_gc: None) -> None:
    backends: list[weakref.ref[Any]] = []

    def make(policy: Policy, *choices: Any) -> Any:
        backend = create_backend(policy, *choices)
        backends.append(weakref.ref(backend))
        return backend

    async with serve(make, model=write("cube", 1), admin_key="sesame", version_grace_seconds=0) as client:
        for seed in range(2, 5):
            write("cube", seed)
            await reload(client, "cube")
            alive = [backend() is not None for backend in backends]
            assert alive == [False] * (len(backends) - 1) + [True]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(path: Path, name: str, value: Callable[[torch.Tensor], torch.Tensor], spec: str | None = None) -> None:
    tensors = load_file(path)
    tensors[name] = value(tensors[name])
    save_file(tensors, path, metadata={METADATA_KEY: spec or load_policy(path).spec.to_json()})


BROKEN: dict[str, tuple[Callable[[Path, Any], object], str]] = {
    "truncated": (lambda path, write: truncate(path), "truncated or not a safetensors file"),
    "empty": (lambda path, write: path.write_bytes(b""), "truncated or not a safetensors file"),
    "pickle": (lambda path, write: path.write_bytes(b"\x80\x04\x95 a pickle"), "not a safetensors file"),
    "missing": (lambda path, write: path.unlink(), "cannot be read"),
    "folder": (lambda path, write: (path.unlink(), path.mkdir()), "cannot be read"),
    "nan": (lambda path, write: edit(path, "actor.layers.0.bias", lambda t: t * torch.nan), "has NaN"),
    "dtype": (lambda path, write: edit(path, "actor.layers.0.bias", torch.Tensor.half), "has dtype F16"),
    "shape": (lambda path, write: edit(path, "actor.layers.0.bias", lambda t: t[:-1]), "has shape"),
    "spec": (lambda path, write: edit(path, "actor.layers.0.bias", lambda t: t, "{}"), "cube.safetensors: "),
    "name": (lambda path, write: write("block", 9, file="cube"), "holds 'block' now, not 'cube'"),
    "obs_dim": (lambda path, write: write("cube", 9, obs_dim=7), "obs_dim is 7, and 'cube' is served with 6"),
    "action_dim": (
        lambda path, write: write("cube", 9, action_dim=2, action_low=(-1.0,) * 2, action_high=(1.0,) * 2),
        "action_dim is 2, and 'cube' is served with 3",
    ),
    "action_horizon": (
        lambda path, write: write("cube", 9, action_horizon=4), "action_horizon is 4, and 'cube' is served with 1"
    ),
    "overflow": (
        lambda path, write: edit(path, "critic.layers.2.weight", lambda t: torch.full_like(t, 3e38)),
        "NaN or infinity",
    ),
}  # fmt: skip


async def test_parts_that_robots_send_by_name_stay(serve: Any, write: Any) -> None:
    """Names may be given to a policy that had none. From then on they and their order are part of the robot."""
    arm, tool = ObservationKey("arm", 4), ObservationKey("tool", 2)
    refusals = {(tool, arm): "are tool 2, arm 4, and 'cube' is served with arm 4, tool 2", (): "are none, and 'cube'"}
    async with serve(model=write("cube", 1), admin_key="sesame") as client:
        write("cube", 2, observation_keys=(arm, tool))
        assert (await reload(client, "cube"))["outcome"] == "swapped"
        for keys, message in refusals.items():
            write("cube", 3, observation_keys=keys)
            problem = (await client.post("/models/cube/reload", headers=KEY)).json()
            assert problem["code"] == "reload_failed"
            assert message in problem["detail"]


async def keeps_the_old_one(client: httpx.AsyncClient, row: list[float], message: str, reload_it: Any) -> None:
    before = await act(client, observation=row, seed=1)
    problem = await reload_it()
    assert message in problem
    after = await act(client, observation=row, seed=1)
    same = ("action", "q", "model_version", "engine")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert (await client.get("/readyz")).status_code == 200
    described = (await client.get("/models/cube")).json()
    assert (described["version"], described["older_versions"]) == (before["model_version"], [])
    assert await counted(client, "cube", "failed") == 1


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_file_keeps_the_old_version(
    client: httpx.AsyncClient, write: Any, observations: Rows, fault: str
) -> None:
    path = write("cube", 1)
    break_it, message = BROKEN[fault]

    async def refused() -> str:
        break_it(path, write)
        response = await client.post("/models/cube/reload", headers=KEY)
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert (response.status_code, problem["code"]) == (409, "reload_failed")
        return str(problem["detail"])

    await keeps_the_old_one(client, observations(1)[0], message, refused)
    if path.is_dir():
        path.rmdir()
    write("cube", 3)
    assert (await reload(client, "cube"))["outcome"] == "swapped"


class Faulty:
    """A backend that fails in one of the ways that backends fail."""

    def __init__(self, policy: Policy, error: Callable[[], Exception], at: str) -> None:
        if at == "making":
            raise error()
        self._inner = ReferenceBackend(policy)
        self.engine = self._inner.engine
        self._error, self._at = error, at

    def check(self) -> None:
        if self._at == "check":
            raise self._error()

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        if self._at == "warm-up":
            raise self._error()
        return self._inner.sample_and_score(batch)


@pytest.mark.parametrize(
    ("kind", "said", "at", "message"),
    [
        (DeviceOutOfMemory, "no room for 14 MB", "making", "cube: no room for 14 MB"),
        (BackendUnavailable, "no such card", "making", "cube: no such card"),
        (BackendMismatch, "request 3 differs by 0.7", "check", "cube: request 3 differs by 0.7"),
        (DeviceOutOfMemory, "no room for a batch", "warm-up", "cube: no room for a batch"),
        (RuntimeError, "secret of the driver", "warm-up", "cube: the engine failed; the server's log has"),
    ],
)
async def test_a_version_that_cannot_be_computed_keeps_the_old_one(
    serve: Any,
    write: Any,
    observations: Rows,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
    said: str,
    at: str,
    message: str,
) -> None:
    made: list[Policy] = []

    def make(policy: Policy, *choices: Any) -> Any:
        made.append(policy)
        return Faulty(policy, lambda: kind(said), at) if len(made) == 2 else create_backend(policy, *choices)

    async with serve(make, model=write("cube", 1), admin_key="sesame") as client:

        async def refused() -> str:
            write("cube", 2)
            response = await client.post("/models/cube/reload", headers=KEY)
            assert response.json()["code"] == "reload_failed"
            return str(response.json()["detail"])

        await keeps_the_old_one(client, observations(1)[0], message, refused)
        assert said in caplog.text
        assert (await reload(client, "cube"))["outcome"] == "swapped"


async def test_keys(serve: Any, write: Any) -> None:
    path = write("cube", 1)
    async with serve(model=path, api_key="open") as client:
        for headers in ({}, {"authorization": "Bearer open"}):
            response = await client.post("/models/cube/reload", headers=headers)
            assert (response.status_code, response.json()["code"]) == (403, "admin_disabled")
    async with serve(model=path, api_key="open", admin_key="sesame") as client:
        write("cube", 2)
        for headers in ({}, {"authorization": "Bearer open"}, {"authorization": "Basic sesame"}):
            response = await client.post("/models/cube/reload", headers=headers)
            assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
        assert await counted(client, "cube", "swapped") == 0
        assert (await reload(client, "cube"))["outcome"] == "swapped"


async def test_names_that_are_not_served(client: httpx.AsyncClient) -> None:
    response = await client.post("/models/mazes/reload", headers=KEY)
    assert (response.status_code, response.json()["code"]) == (404, "unknown_model")
    assert "'maze'" in response.json()["detail"]


async def test_a_server_that_is_not_ready_or_drains_reloads_nothing(
    serve: Any, write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(policy: Policy, *choices: Any) -> Any:
        return Faulty(policy, lambda: RuntimeError("no"), "warm-up")

    path = write("cube", 1)
    for make_backend in (broken, create_backend):
        async with serve(make_backend, model=path, admin_key="sesame") as client:
            runtime = client.app.state.runtime
            write("cube", 2)
            runtime.scheduler.close()
            response = await client.post("/models/cube/reload", headers=KEY)
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")
            caplog.clear()
            await runtime.reload_all()
            assert "the reload ended early" in caplog.text
        write("cube", 1)


def outcomes(results: list[Reload | ReloadFailed]) -> list[str]:
    return [
        result.detail if isinstance(result, ReloadFailed) else f"{result.name} {result.outcome}" for result in results
    ]


async def test_reloading_all_adds_new_files_and_stops_at_no_fault(
    client: httpx.AsyncClient, write: Any, observations: Rows
) -> None:
    reloader = client.app.state.runtime.reloader  # type: ignore[attr-defined]
    truth, row = Truth(), observations(1)[0]
    truth.add(write("arm", 7))
    truth.add(write("cube", 8))
    truncate(write("torn", 9))
    assert [text[-60:] for text in outcomes(await reloader.reload_all())][1:] == [
        "arm added",
        "cube swapped",
        "maze unchanged",
    ]
    for name in ("arm", "cube"):
        reply = await act(client, observation=row, model=name)
        truth.check(row, reply)
    assert (await act(client, observation=row))["model"] == "cube"  # the default stays
    assert await counted(client, "", "failed") == 1
    assert await counted(client, "arm", "added") == 1
    write("arm", 10)
    assert (await reload(client, "arm"))["outcome"] == "swapped"


async def test_reloading_all_when_files_move_double_or_go(client: httpx.AsyncClient, write: Any) -> None:
    reloader = client.app.state.runtime.reloader  # type: ignore[attr-defined]
    path = write("cube", 1)
    path.rename(path.with_name("cube-v1.safetensors"))
    assert outcomes(await reloader.reload_all()) == ["cube unchanged", "maze unchanged"]
    write("cube", 2, file="cube-v2")
    doubled, maze = outcomes(await reloader.reload_all())
    assert "cube-v1.safetensors and" in doubled
    assert "both hold 'cube'" in doubled
    assert maze == "maze unchanged"
    path.with_name("cube-v1.safetensors").unlink()
    path.with_name("maze.safetensors").unlink()
    assert outcomes(await reloader.reload_all()) == ["cube swapped"]
    assert [model["name"] for model in (await client.get("/models")).json()["models"]] == ["cube", "maze"]
    path.with_name("cube-v2.safetensors").unlink()
    (failed,) = outcomes(await reloader.reload_all())
    assert "a folder without any" in failed


async def test_a_full_queue_keeps_no_reload_out(
    serve: Any, gated: Any, write: Any, observations: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backend, made = gated
    row = observations(1)[0]
    async with serve(make_backend, model=write("cube", 1), admin_key="sesame", max_queue_seconds=1.0) as client:
        runtime = client.app.state.runtime
        grid = [(b, n, m) for b in (1, 2) for n in (1, 8) for m in (1, 4)]
        runtime.catalog.find("cube").engine.cost.fit(
            (BatchSize(b, b * n * m, b * n), b * n * m / 40) for b, n, m in grid
        )
        made[0].shut()
        running = asyncio.ensure_future(act(client, observation=row))
        await asyncio.to_thread(made[0].entered.acquire, timeout=WAIT)
        queued = asyncio.ensure_future(act(client, observation=row))
        await until(lambda: runtime.scheduler.queued)
        response = await client.post("/act", json={"observation": row})
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")
        write("cube", 2)
        reloading = asyncio.ensure_future(reload(client, "cube"))
        await until(lambda: runtime.scheduler._calls)
        made[0].gate.set()
        assert (await reloading)["outcome"] == "swapped"
        await asyncio.gather(running, queued)


async def test_a_worker_that_dies_under_a_reload_fails_that_model_only(
    serve: Any, write: Any, observations: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """The log and the metrics say so, and the models after it are reloaded."""
    write("arm", 1)
    folder = write("cube", 2).parent
    dying = False

    def make(policy: Policy, *choices: Any) -> Any:
        if dying and policy.spec.name == "arm":
            raise SystemExit("a library ends the thread")
        return create_backend(policy, *choices)

    async with serve(make, model=folder, admin_key="sesame") as client:
        before = (await act(client, observation=observations(1)[0], model="arm"))["model_version"]
        dying = True
        write("arm", 3)
        write("cube", 4)
        await client.app.state.runtime.reload_all()
        assert await counted(client, "arm", "failed") == 1
        assert await counted(client, "cube", "swapped") == 1
        assert "reload failed, nothing changed: arm: the worker thread died" in caplog.text
        assert (await act(client, observation=observations(1)[0], model="arm"))["model_version"] == before


async def test_the_client_reloads_pins_and_is_told(serve: Any, write: Any, observations: Rows) -> None:
    path = write("cube", 1)
    async with serve(model=path, admin_key="sesame", version_grace_seconds=0) as served:
        network = httpx.ASGITransport(served.app)
        async with AsyncClient("http://sorl", api_key="sesame", transport=network) as client:
            first = (await client.act(observations(1)[0])).model_version
            write("cube", 2)
            reply = await client.reload("cube")
            assert (reply["outcome"], reply["previous_version"]) == ("swapped", first)
            with pytest.raises(VersionGone, match=reply["model_version"]):
                await client.act(observations(1)[0], model_version=first)
            truncate(path)
            with pytest.raises(ClientReloadFailed, match="truncated"):
                await client.reload("cube")


async def test_documented_in_openapi(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    post = document["paths"]["/models/{name}/reload"]["post"]
    assert {"200", "401", "403", "404", "409", "503"} <= set(post["responses"])
    assert "previous_version" in document["components"]["schemas"]["ReloadReply"]["properties"]


def test_random_policies_differ_by_seed() -> None:
    """Else the tests above could not tell versions apart."""
    first, second = (random_policy(seed).state_dict()["actor.layers.0.weight"] for seed in (1, 2))
    assert not torch.equal(first, second)
