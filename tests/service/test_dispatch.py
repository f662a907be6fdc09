"""Batches of several engines: each work to its own, and a fault to its own only."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from kernels.backend import SampleBatch, SampleResult
from kernels.reference import ReferenceBackend
from policy import Policy
from service.dispatch import Assignment, Errand, Task, run
from service.engine import Engine, Outcome, Work
from service.errors import ClientGone, EngineFailed
from service.metrics import Metrics
from tests.policies import random_policy


class Counting(ReferenceBackend):
    """The reference, with the sizes of its batches; it raises when told to."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.sizes: list[int] = []
        self.broken = False

    def sample_and_score(self, batch: SampleBatch) -> SampleResult:
        self.sizes.append(len(batch))
        if self.broken:
            raise RuntimeError("lost")
        return super().sample_and_score(batch)


def engine(seed: int, **changes: int) -> tuple[Engine, Counting]:
    policy = random_policy(seed, **changes)
    backend = Counting(policy)
    return Engine(policy, backend, Metrics(), threads=1, max_batch_rows=64), backend


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
    outcomes = run(tasks)
    assert (first_backend.sizes, second_backend.sizes) == ([6], [4])
    for index, (one, outcome) in enumerate(zip(works, outcomes, strict=True)):
        assert isinstance(outcome, Outcome)
        truth = expected(2, one, obs_dim=4) if index % 2 else expected(1, one)
        np.testing.assert_allclose(outcome.action, truth, atol=1e-5)


def test_an_engine_that_raises_fails_its_own_requests_only(caplog: pytest.LogCaptureFixture) -> None:
    (first, backend), (second, _) = engine(1), engine(2)
    backend.broken = True
    outcomes = run([Assignment(first, work(1)), Assignment(second, work(2)), Assignment(first, work(3))])
    assert [type(outcome) for outcome in outcomes] == [EngineFailed, Outcome, EngineFailed]
    assert "lost" in caplog.text


def test_an_errand_runs_beside_requests_and_keeps_its_error_to_itself() -> None:
    made = engine(1)[0]
    good, bad = Errand(lambda: 41 + 1), Errand(lambda: 1 // 0)
    outcomes = run([good, Assignment(made, work(1)), bad])
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
    run([errand])
    run([errand])
    assert calls == [1]


def test_work_that_nobody_waits_for_is_not_computed() -> None:
    made, backend = engine(1)
    tasks: list[Task] = [Assignment(made, work(1))]
    del made
    gc.collect()
    (outcome,) = run(tasks)
    assert isinstance(outcome, ClientGone)
    assert not backend.sizes


def test_tasks_that_have_run_hold_no_engine() -> None:
    """The worker keeps its last batch until the next one."""
    with without_gc():
        made = engine(1)[0]
        gone = weakref.ref(made)
        tasks: list[Task] = [Assignment(made, work(1)), errand := Errand(lambda made=made: made)]
        run(tasks)
        assert errand.result() is made
        del made
        assert gone() is None
        assert len(tasks) == 2
