"""Batches of several engines: each work to its own, and a fault to its own only."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels.backend import DeviceFailure, DeviceLost, SampleBatch, SampleResult
from kernels.reference import ReferenceBackend
from policy import Policy
from service.budget.cost_model import Batch
from service.engine.device import Device
from service.engine.dispatch import Assignment, Errand, Task, price, reduced, run
from service.engine.engine import Engine
from service.errors import ClientGone, EngineFailed
from service.observability.metrics import Metrics
from service.sample import Outcome, Work
from service.scheduling.engine_calls import EngineCalls
from service.scheduling.job import Portion, Price
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


def engine(seed: int, device: Device | None = None, **changes: int) -> tuple[Engine, Counting]:
    policy = random_policy(seed, **changes)
    backend = Counting(policy)
    device = device or Device(lambda error: None)
    return Engine(policy, backend, Metrics(), threads=1, max_batch_rows=64, device=device), backend


def whole(tasks: list[Task]) -> list[Portion[Task]]:
    return [Portion(task, 0, task.work.rows if isinstance(task, Assignment) else 1) for task in tasks]


def work(seed: int, obs_dim: int = 11) -> Work:
    observation = np.random.default_rng(seed).standard_normal((2, obs_dim)).astype(np.float32)
    return Work(observation, 3, 2, np.array([seed, seed + 100], np.uint64))


def expected(policy_seed: int, work: Work, **changes: int) -> np.ndarray:
    """The definition, in float64."""
    backend = ReferenceBackend(random_policy(policy_seed, **changes), dtype=torch.float64)
    return backend.sample_and_score(SampleBatch.of(work.observation, 3, 2, work.seeds)).action


def test_each_work_is_computed_by_its_own_engine_in_one_batch_an_engine() -> None:
    (first, first_backend), (second, second_backend) = engine(1), engine(2, obs_dim=4)
    works = [work(1), work(2, 4), work(3), work(4, 4), work(5)]
    tasks: list[Task] = [Assignment((first, second)[index % 2], work) for index, work in enumerate(works)]
    outcomes = run(whole(tasks))
    assert (first_backend.sizes, second_backend.sizes) == ([6], [4])
    for index, (one, outcome) in enumerate(zip(works, outcomes, strict=True)):
        assert isinstance(outcome, Outcome)
        truth = expected(2, one, obs_dim=4) if index % 2 else expected(1, one)
        np.testing.assert_allclose(outcome.action, truth, atol=1e-5)


def calls() -> EngineCalls[Task]:
    return EngineCalls(run, clock=lambda: 0.0)


def test_an_engine_that_raises_fails_its_own_requests_only(caplog: pytest.LogCaptureFixture) -> None:
    (first, backend), (second, _) = engine(1), engine(2)
    backend.broken = True
    tasks: list[Task] = [Assignment(first, work(1)), Assignment(second, work(2)), Assignment(first, work(3))]
    outcomes = calls().results(whole(tasks))
    assert [type(outcome) for outcome in outcomes] == [EngineFailed, Outcome, EngineFailed]
    assert "lost" in caplog.text


def test_a_retry_after_another_engine_raised_adds_no_candidate_twice() -> None:
    """The first engine's portion is computed, the second's raises, and both are run again by themselves."""
    (first, _), (second, backend) = engine(1), engine(2)
    one = work(1)
    task, broken = Assignment(first, one), Assignment(second, work(2))
    (carry,) = run([Portion(task, 0, 2)])
    backend.broken = True
    carry, failed = calls().results([Portion(task, 2, 4, carry), Portion(broken, 0, 6)])
    assert isinstance(failed, EngineFailed)
    (outcome,) = run([Portion(task, 4, 6, carry)])
    np.testing.assert_allclose(outcome.action, expected(1, one), atol=1e-5)
    assert isinstance(outcome, Outcome)


def test_a_device_that_failed_under_one_engine_fails_all_of_them() -> None:
    failures: list[DeviceFailure] = []
    device = Device(failures.append)
    (first, backend), (second, other) = engine(1, device), engine(2, device)
    backend.failure = DeviceLost("unspecified launch failure")
    for made in (first, second, first):
        with pytest.raises(DeviceLost):
            run(whole([Assignment(made, work(1))]))
    assert failures == [backend.failure]
    assert (len(backend.sizes), len(other.sizes)) == (1, 0)


def test_a_request_costs_what_its_engine_says_and_an_errand_a_slice() -> None:
    made, _ = engine(1)
    made.cost.fit([(Batch(b, b * n * m, b * n), 1e-3 * b * n * m) for b in (1, 2) for n in (1, 3) for m in (1, 5)])
    assert price(Assignment(made, work(1)), 0.005).seconds() == pytest.approx(2 * 3 * 2 * 1e-3)
    assert price(Errand(lambda: None), 0.005) == Price(rows=1, row=0.005)


def test_reducing_a_request_keeps_its_engine() -> None:
    made, _ = engine(1)
    task = Assignment(made, work(1))
    assert reduced(lambda work, seconds, done: work, task, 1.0, 0) is task
    less = reduced(lambda work, seconds, done: replace(work, num_steps=done), task, 1.0, 1)
    assert isinstance(less, Assignment)
    assert (less.engine, less.work.num_steps) == (made, 1)


def test_an_errand_runs_beside_requests_and_keeps_its_error_to_itself() -> None:
    made = engine(1)[0]
    good, bad = Errand(lambda: 41 + 1), Errand(lambda: 1 // 0)
    outcomes = run(whole([good, Assignment(made, work(1)), bad]))
    assert [type(outcome) for outcome in outcomes] == [type(None), Outcome, type(None)]
    assert good.result() == 42
    with pytest.raises(ZeroDivisionError):
        bad.result()


@contextmanager
def without_gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_an_errand_is_made_once() -> None:
    calls: list[int] = []
    errand = Errand(lambda: calls.append(1))
    run(whole([errand]))
    run(whole([errand]))
    assert calls == [1]


def test_work_that_nobody_waits_for_is_not_computed() -> None:
    made, backend = engine(1)
    tasks: list[Task] = [Assignment(made, work(1))]
    del made
    gc.collect()
    (outcome,) = run(whole(tasks))
    assert isinstance(outcome, ClientGone)
    assert not backend.sizes


def test_tasks_that_have_run_hold_no_engine() -> None:
    """The worker keeps its last batch until the next one."""
    with without_gc():
        made = engine(1)[0]
        gone = weakref.ref(made)
        tasks: list[Task] = [Assignment(made, work(1)), errand := Errand(lambda made=made: made)]
        run(whole(tasks))
        assert errand.result() is made
        del made
        assert gone() is None
        assert len(tasks) == 2
