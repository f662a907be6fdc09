"""Batches of several engines: each request goes to its own, and a fault stays with its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from kernels.backend import DeviceFailure, DeviceLost, SampleBatch, SampleResult
from kernels.reference import ReferenceBackend
from policy import Policy
from service.engine import BatchReport, Device, Engine
from service.errors import EngineFailed, NonfiniteOutput, ObservationTooLarge
from service.sample import RequestPart, SampleReply, SampleRequest
from service.scheduling import Scheduler
from service.scheduling.engine_calls import EngineCalls
from service.timing import BatchSize
from tests.policies import random_policy


class Counting(ReferenceBackend):
    """The reference, with the sizes of its batches; it raises when told to."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.sizes: list[int] = []
        self.broken = False
        self.failure: DeviceFailure | None = None

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        self.sizes.append(len(batch))
        if self.broken:
            raise RuntimeError("lost")
        if self.failure is not None:
            raise self.failure
        return super().sample_and_score(batch)


def make_engine(
    seed: int, device: Device | None = None, reports: list[BatchReport] | None = None, **changes: int
) -> tuple[Engine, Counting]:
    policy = random_policy(seed, **changes)
    backend = Counting(policy)
    device = device or Device(lambda error: None)
    on_batch = ([] if reports is None else reports).append
    return Engine(policy, backend, max_batch_rows=64, max_batch_seconds=1.0, device=device, on_batch=on_batch), backend


def make_request(seed: int, obs_dim: int = 11) -> SampleRequest:
    observation = np.random.default_rng(seed).standard_normal((2, obs_dim)).astype(np.float32)
    return SampleRequest(observation, 3, 2, np.array([seed, seed + 100], np.uint64))


def run(engines: Sequence[Engine], requests: Sequence[SampleRequest]) -> list[object]:
    return EngineCalls(clock=lambda: 0.0).run(engines, [RequestPart.whole(request) for request in requests])


def expected(policy_seed: int, request: SampleRequest, **changes: int) -> np.ndarray:
    """The definition, in float64."""
    backend = ReferenceBackend(random_policy(policy_seed, **changes), dtype=torch.float64)
    return backend.sample_and_score(SampleBatch.of(request.observation, 3, 2, request.seeds)).action


def test_each_request_is_computed_by_its_own_engine_in_one_batch_an_engine() -> None:
    (first, first_backend), (second, second_backend) = make_engine(1), make_engine(2, obs_dim=4)
    requests = [make_request(1), make_request(2, 4), make_request(3), make_request(4, 4), make_request(5)]
    replies = run([(first, second)[index % 2] for index in range(5)], requests)
    assert (first_backend.sizes, second_backend.sizes) == ([6], [4])
    for index, (request, reply) in enumerate(zip(requests, replies, strict=True)):
        assert isinstance(reply, SampleReply)
        truth = expected(2, request, obs_dim=4) if index % 2 else expected(1, request)
        np.testing.assert_allclose(reply.action, truth, atol=1e-5)


def test_an_engine_that_raises_fails_its_own_requests_only(caplog: pytest.LogCaptureFixture) -> None:
    (first, backend), (second, other) = make_engine(1), make_engine(2)
    backend.broken = True
    results = run([first, second, first], [make_request(1), make_request(2), make_request(3)])
    assert [type(result) for result in results] == [EngineFailed, SampleReply, EngineFailed]
    assert "lost" in caplog.text
    assert other.sizes == [2]  # it was not run again for the other's fault


def test_a_retry_adds_no_candidate_twice() -> None:
    """A part is computed with the others of its batch, one of them raises, and all are run again by themselves."""
    engine, _ = make_engine(1)
    request, neighbour = make_request(1), make_request(2)
    (partial,) = engine.run([RequestPart(request, 0, 2)])
    partial, reply = engine.run([RequestPart(request, 2, 4, partial), RequestPart.whole(neighbour)])
    (partial,) = engine.run([RequestPart(request, 2, 4, partial)])  # once more, alone
    (reply,) = engine.run([RequestPart(request, 4, 6, partial)])
    assert isinstance(reply, SampleReply)
    np.testing.assert_allclose(reply.action, expected(1, request), atol=1e-5)


def test_a_device_that_failed_under_one_engine_fails_all_of_them() -> None:
    failures: list[DeviceFailure] = []
    device = Device(failures.append)
    (first, backend), (second, other) = make_engine(1, device), make_engine(2, device)
    backend.failure = DeviceLost("unspecified launch failure")
    for engine in (first, second, first):
        with pytest.raises(DeviceLost):
            engine.run([RequestPart.whole(make_request(1))])
    assert failures == [backend.failure]
    assert (len(backend.sizes), len(other.sizes)) == (1, 0)


def test_warm_up_finishes_the_making_of_its_backend_first() -> None:
    """In steps of their own, before the first batch; the backend says how many there are."""
    events: list[str] = []

    class Unfinished(Counting):
        def making_steps(self) -> Iterator[Callable[[], None]]:
            while len(events) < 3:
                yield lambda: events.append("a step")

        def sample_and_score(self, batch: SampleBatch) -> SampleResult:
            events.append("a batch")
            return super().sample_and_score(batch)

    policy = random_policy(1)
    device = Device(lambda error: None)
    engine = Engine(policy, Unfinished(policy), max_batch_rows=8, max_batch_seconds=0.01, device=device)
    for step in engine.warm_up_steps():
        before = len(events)
        step()
        assert events[before:] == ["a step"] or "a step" not in events[before:]
    assert events[:4] == ["a step"] * 3 + ["a batch"]
    assert set(events[3:]) == {"a batch"}


def test_a_request_costs_what_its_engine_predicts() -> None:
    engine, _ = make_engine(1)
    grid = [(b, n, m) for b in (1, 2) for n in (1, 3) for m in (1, 5)]
    engine.cost.fit([(BatchSize(b, b * n * m, b * n), 1e-3 * b * n * m) for b, n, m in grid])
    assert engine.estimate(make_request(1)).seconds() == pytest.approx(2 * 3 * 2 * 1e-3)


def test_every_batch_is_reported_with_its_sums() -> None:
    reports: list[BatchReport] = []
    engine, _ = make_engine(1, reports=reports)
    bad = make_request(2)
    bad.observation[0, 0] = np.nan
    results = engine.run([RequestPart(make_request(1), 0, 4), RequestPart.whole(bad)])
    assert isinstance(results[1], NonfiniteOutput)
    (report,) = reports
    assert report.size == BatchSize(observations=4, actor_rows=20, critic_rows=10)
    assert (report.requests, report.nonfinite) == (2, 1)
    assert report.seconds > 0


@pytest.mark.parametrize("parts", [[(0, 6)], [(0, 2), (2, 6)]])
def test_an_observation_that_no_network_can_take_is_the_fault_of_its_request(parts: list[tuple[int, int]]) -> None:
    reports: list[BatchReport] = []
    engine, _ = make_engine(1, reports=reports)
    huge = make_request(2)
    huge.observation[1, 3] = -3e38
    result: object = None
    for start, stop in parts:
        good, result = engine.run([RequestPart.whole(make_request(1)), RequestPart(huge, start, stop, result)])
        assert isinstance(good, SampleReply)
        np.testing.assert_allclose(good.action, expected(1, make_request(1)), atol=1e-5)
    assert isinstance(result, ObservationTooLarge)
    assert (result.status, result.field) == (422, "observation")
    assert "-3e+38 at [1, 3]" in result.detail
    assert [report.nonfinite for report in reports] == [0] * len(parts)


def test_distance_from_the_data_is_a_number_for_every_observation() -> None:
    engine, backend = make_engine(1)
    engine.observation_std[:] = 1e-6
    result = backend.sample_and_score(SampleBatch.of(make_request(1).observation, 3, 2, make_request(1).seeds))
    converted = engine._convert(result, np.full((2, 11), 3e38, np.float32))
    assert np.isfinite(converted.observation_z_max).all()


@pytest.mark.anyio
async def test_a_waiting_worker_holds_no_engine() -> None:
    """A model that is no longer served leaves memory although the worker has nothing else to do."""
    scheduler = Scheduler(slice_seconds=1.0, max_batch_rows=64, max_queue_seconds=9.0, aging_seconds=1.0)
    scheduler.start()
    engine = make_engine(1)[0]
    job = scheduler.submit(make_request(1), engine)
    await job.future
    assert await scheduler.call(lambda engine=engine: engine.name) == engine.name
    gone = weakref.ref(engine)
    del engine, job
    # The worker's last frame may still be on its way out when the loop has the result: one more call has it start anew.
    await scheduler.call(gc.collect)
    assert gone() is None
    assert await scheduler.drain(30)
