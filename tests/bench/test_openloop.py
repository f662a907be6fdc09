"""The open-loop generator against scripted servers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bench.openloop import GeneratorTooSlow, OpenLoad, Samples, measure, poisson_arrivals, send
from tests.bench.planted import Request, planted_server, reply

OK = reply({"action": [0.0], "num_candidates": 3, "num_steps": 2})


def load(url: str, rate: float = 400.0, seconds: float = 0.3, **more: object) -> OpenLoad:
    return replace(OpenLoad(url, {"observation": [0.0]}, rate, seconds), **more)


def samples(latency: list[float], status: list[int], lag: float = 0.0) -> Samples:
    empty = Samples.unanswered(np.arange(len(latency), dtype=float))
    return replace(
        empty,
        latency=np.array(latency),
        status=np.array(status, np.int16),
        lag=np.full(len(latency), lag),
    )


def test_arrivals_are_a_poisson_process() -> None:
    arrivals = poisson_arrivals(500.0, 20.0, seed=3)
    assert abs(len(arrivals) - 10_000) < 5 * 100  # five standard deviations
    gaps = np.diff(arrivals)
    assert (gaps >= 0).all()
    assert stats.kstest(gaps, stats.expon(scale=1 / 500).cdf).pvalue > 0.01
    counts = np.histogram(arrivals, bins=2000, range=(0, 20))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.15)  # evenly spaced ones would give 0
    np.testing.assert_array_equal(arrivals, poisson_arrivals(500.0, 20.0, seed=3))


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_a_rate_or_duration_that_is_not_positive_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        poisson_arrivals(rate, seconds, 0)


def test_every_request_is_sent_and_counted_once() -> None:
    async def run() -> tuple[Samples, list[bytes]]:
        seen = []

        async def answering(request: Request) -> bytes:
            seen.append(request.body)
            return OK

        async with planted_server(answering) as url:
            return await send(load(url)), seen

    found, seen = asyncio.run(run())
    np.testing.assert_array_equal(found.intended, poisson_arrivals(400.0, 0.3, 0))
    assert len(seen) == len(found.status) > 90
    assert (found.status == 200).all()
    assert (found.num_candidates == 3).all()
    assert (found.num_steps == 2).all()
    assert (found.lag >= 0).all()
    assert (found.latency >= found.lag).all()
    assert all(json.loads(body) == {"observation": [0.0]} for body in seen)


@pytest.mark.parametrize("tick", [0.0, 0.002])
def test_a_known_delay_is_measured(tick: float) -> None:
    async def run() -> Samples:
        async def answering(request: Request) -> bytes:
            loop = asyncio.get_running_loop()
            later = loop.create_future()
            loop.call_later(0.05, later.set_result, None)
            await later
            return OK

        async with planted_server(answering) as url:
            return await send(load(url), tick)

    found = asyncio.run(run())
    assert (found.status == 200).all()
    assert found.latency.min() >= 0.049  # timers tick in milliseconds
    assert not found.met(40.0).any()
    assert found.met(5000.0).all()


def test_all_requests_during_a_stall_have_its_latency() -> None:
    """No coordinated omission: the server holds all replies until most requests have arrived. A closed loop would have
    sent one request and waited. Here all are sent, and each waits from its intended time to the end of the stall."""

    async def run() -> tuple[Samples, int]:
        total = len(poisson_arrivals(400.0, 0.3, 0)) * 3 // 4
        over = asyncio.Event()

        async def answering(request: Request) -> bytes:
            if request.number + 1 >= total:
                over.set()
            await over.wait()
            return OK

        async with planted_server(answering) as url:
            return await send(load(url, give_up_ms=30_000)), total

    found, total = asyncio.run(run())
    assert (found.status == 200).all()
    end = found.intended[total - 1]  # the stall can't have ended before this intended time
    assert (found.latency[:total] >= end - found.intended[:total]).all()
    assert np.median(found.latency) > 0.05


def test_requests_have_the_time_left_to_the_deadline() -> None:
    async def run(**more: float) -> list[float]:
        told = []

        async def answering(request: Request) -> bytes:
            told.append(json.loads(request.body)["deadline_ms"])
            return OK

        async with planted_server(answering) as url:
            await send(load(url, deadline_ms=50.0, **more))
        return told

    told = asyncio.run(run())
    assert max(told) <= 49.0  # 1 ms is reserved for the network
    assert min(told) > 0
    assert max(asyncio.run(run(transit_ms=20.0))) <= 30.0


def test_a_client_gives_up_and_continues() -> None:
    async def run() -> Samples:
        async def answering(request: Request) -> bytes:
            if request.number % 2:
                await asyncio.Event().wait()
            return OK

        async with planted_server(answering) as url:
            return await send(load(url, give_up_ms=200))

    found = asyncio.run(run())
    assert set(found.status.tolist()) == {0, 200}
    assert np.isinf(found.latency[found.status == 0]).all()
    assert not found.met(1e9)[found.status == 0].any()


def test_broken_connections_and_refusals_are_not_replies() -> None:
    async def run() -> Samples:
        async def answering(request: Request) -> bytes:
            return [b"", reply({}, 503), reply({}, 504), OK][request.number % 4]

        async with planted_server(answering) as url:
            return await send(load(url))

    status = asyncio.run(run()).status
    assert {0, 503, 504, 200} == set(status.tolist())


def test_a_generator_without_connections_refuses_to_report() -> None:
    async def run() -> Samples:
        async def answering(request: Request) -> bytes:
            await asyncio.Event().wait()
            return OK

        async with planted_server(answering) as url:
            return await send(load(url, give_up_ms=600, max_connections=8))

    found = asyncio.run(run())
    assert (found.status == 0).sum() == 8
    with pytest.raises(GeneratorTooSlow, match="found no free connection"):
        found.check(1e9)


def test_a_late_generator_refuses_to_report() -> None:
    with pytest.raises(GeneratorTooSlow, match=r"50\.0 ms at p99 \(limit 10 ms\)"):
        samples([0.1] * 5, [200] * 5, lag=0.05).check(10.0)
    assert samples([0.1] * 5, [200] * 5, lag=0.005).check(10.0).lag_ms(0.99) == pytest.approx(5.0)


def test_latency_quantiles_are_over_replies_only() -> None:
    found = samples([0.001, 0.002, 0.003, 0.004, np.inf], [200, 200, 200, 504, 0])
    assert found.latency_ms(0.5) == pytest.approx(2.0)
    assert found.latency_ms(0.99) == pytest.approx(3.0)
    assert found.met(2.5).tolist() == [True, True, False, False, False]
    assert samples([np.inf], [0]).latency_ms(0.5) is None


def test_measure_sends_the_same_from_another_process() -> None:
    async def run() -> tuple[Samples, list[int]]:
        async def answering(request: Request) -> bytes:
            return OK

        ticks: list[int] = []
        async with planted_server(answering) as url:
            mine = load(url, rate=100.0)
            return await asyncio.to_thread(measure, mine, lambda: ticks.append(1), 0.05), ticks

    found, ticks = asyncio.run(run())
    assert (found.status == 200).all()
    np.testing.assert_array_equal(found.intended, poisson_arrivals(100.0, 0.3, 0))
    assert ticks
