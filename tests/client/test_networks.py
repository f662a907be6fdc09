"""Networks that are slow, silent or broken: what the server is told, and how long a call takes."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress

import httpx
import pytest
from sorl_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Hedge,
    NotReady,
    Overloaded,
    RetryPolicy,
    SorlError,
)
from sorl_client.transit import Transit

from tests.client.network import BUSY, OBSERVATION, Script, problem, silent, trickling

STARTS = {
    "headers": b"HTTP/1.1 200 OK\r\nX-Note: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Type: application/msgpack\r\nContent-Length: 100000\r\n\r\n",
}


class Network:
    """Answers at the deadline that it is told, or after `compute_ms`; the way there and back takes `transit_ms`."""

    def __init__(self, clock, good, transit_ms=0.0, compute_ms=None):
        self.clock = clock
        self.good = good
        self.transit_ms = transit_ms
        self.compute_ms = compute_ms
        self.told_ms = []

    def __call__(self, _, fields):
        self.told_ms.append(fields.get("deadline_ms"))
        spent_ms = self.told_ms[-1] if self.compute_ms is None else self.compute_ms
        self.clock.now += (self.transit_ms + spent_ms) / 1e3
        return self.good(None, fields, timing_ms={"total": spent_ms})


def test_the_server_is_told_what_the_network_leaves(scripted, clock, good):
    network = Network(clock, good, transit_ms=8.0, compute_ms=2.0)
    client = scripted(Script(network))
    for _ in range(3):
        client.act(OBSERVATION, deadline_ms=100.0)
    # The first call knows of no transit; one measurement is enough.
    assert network.told_ms == pytest.approx([99.0, 92.0, 92.0])


def test_calls_without_a_deadline_measure_too(scripted, clock, good):
    network = Network(clock, good, transit_ms=8.0, compute_ms=2.0)
    client = scripted(Script(network))
    for deadline_ms in (None, None, 100.0):
        client.act(OBSERVATION, deadline_ms=deadline_ms)
    assert network.told_ms == [None, None, pytest.approx(92.0)]


def test_transit_ms_is_the_least(scripted, clock, good):
    network = Network(clock, good, transit_ms=0.1, compute_ms=2.0)
    client = scripted(Script(network), transit_ms=3.0)
    for _ in range(3):
        client.act(OBSERVATION, deadline_ms=100.0)
    assert network.told_ms == pytest.approx([97.0] * 3)


def test_a_retry_sends_what_is_left_after_the_network(scripted, clock, good):
    network = Network(clock, good, transit_ms=8.0, compute_ms=2.0)
    script = Script(network, BUSY, network)
    client = scripted(script)
    for _ in range(2):
        client.act(OBSERVATION, deadline_ms=100.0)
    # The retry waits half of 20 ms, and the network takes 8.
    assert [fields["deadline_ms"] for fields in script.sent] == pytest.approx([99.0, 92.0, 82.0])


def test_what_is_left_after_the_network_may_be_too_little(scripted, clock, good):
    network = Network(clock, good, transit_ms=8.0, compute_ms=2.0)
    client = scripted(Script(network))
    client.act(OBSERVATION)
    with pytest.raises(DeadlineExceeded, match="after 0 attempt"):
        client.act(OBSERVATION, deadline_ms=7.9)
    assert len(network.told_ms) == 1


@pytest.mark.parametrize("transit_ms", [2.0, 5.0, 10.0, 15.0])
@pytest.mark.parametrize("fast_before", [0, 100])
def test_a_network_that_becomes_slow_is_found_out_though_late_replies_cannot_be_measured(
    scripted, clock, good, transit_ms, fast_before
):
    """The server uses all that it is given, so every reply is late until the client keeps enough back."""
    network = Network(clock, good, transit_ms=0.5)

    def cut_off_at_the_deadline(request, fields):
        began, timeout = clock.now, request.extensions["timeout"]["read"]
        reply = network(request, fields)
        if clock.now - began > timeout:
            clock.now = began + timeout
            return httpx.ReadTimeout("")
        return reply

    client = scripted(Script(cut_off_at_the_deadline))
    for _ in range(fast_before):
        client.act(OBSERVATION, deadline_ms=20.0)
    network.transit_ms = transit_ms
    late = []
    for _ in range(40):
        try:
            client.act(OBSERVATION, deadline_ms=20.0)
            late.append(False)
        except DeadlineExceeded:
            late.append(True)
    assert sum(late) <= 8
    assert not any(late[-20:])


def test_a_network_that_becomes_fast_again_is_found_out(scripted, clock, good):
    network = Network(clock, good, transit_ms=50.0, compute_ms=1.0)
    client = scripted(Script(network))
    for _ in range(100):
        client.act(OBSERVATION, deadline_ms=100.0)
    network.transit_ms = 1.0
    refused = 0
    while len(network.told_ms) == 100 and refused < 200:
        try:
            client.act(OBSERVATION, deadline_ms=20.0)
        except DeadlineExceeded:
            refused += 1
    assert refused == 64  # one measurement each
    assert network.told_ms[-1] == pytest.approx(19.0)


def test_a_stop_of_the_server_does_not_leave_it_a_quarter_of_the_deadline(scripted, clock, good):
    network = Network(clock, good, transit_ms=1.0, compute_ms=2.0)

    def stopped(request, _):
        clock.now += request.extensions["timeout"]["read"]
        return httpx.ReadTimeout("")

    client = scripted(Script(*[network] * 10, *[stopped] * 20, network))
    for call in range(40):
        if 10 <= call < 30:
            with pytest.raises(DeadlineExceeded):
                client.act(OBSERVATION, deadline_ms=20.0)
        else:
            client.act(OBSERVATION, deadline_ms=20.0)
    assert network.told_ms[10] == pytest.approx(5.0)  # the first call after it
    assert network.told_ms[11:] == pytest.approx([19.0] * 9)


def test_refusals_do_not_keep_up_the_guess_that_causes_them(scripted, clock, good):
    """The server refuses at once what leaves it less than 10 ms. Four stops make the client keep back 15 of 20 ms."""
    network = Network(clock, good, transit_ms=1.0, compute_ms=2.0)
    told_ms = []

    def stopped(request, _):
        clock.now += request.extensions["timeout"]["read"]
        return httpx.ReadTimeout("")

    def strict(request, fields):
        told_ms.append(fields["deadline_ms"])
        if fields["deadline_ms"] >= 10.0:
            return network(request, fields)
        clock.now += 0.001
        problem = {"code": "deadline_exceeded", "detail": "too short for this budget"}
        return httpx.Response(504, json=problem, headers={"Content-Type": "application/problem+json"})

    client = scripted(Script(network, *[stopped] * 4, strict))
    client.act(OBSERVATION, deadline_ms=20.0)
    for _ in range(4):
        with pytest.raises(DeadlineExceeded):
            client.act(OBSERVATION, deadline_ms=20.0)
    with suppress(DeadlineExceeded):
        client.act(OBSERVATION, deadline_ms=20.0, on_late="reject")
    client.act(OBSERVATION, deadline_ms=20.0, on_late="reject")
    assert (told_ms[0], told_ms[-1]) == pytest.approx((5.0, 19.0))


def test_a_refusal_bounds_a_guess_and_leaves_what_was_measured():
    transit = Transit(0.001)
    transit.replied(0.004, 0.0)
    for _ in range(3):
        transit.missed(0.02)
    assert transit.reserve_s() == 0.015
    for seconds, reserve_s in ((0.5, 0.015), (0.01, 0.01), (0.002, 0.004)):
        transit.turned_down(seconds)
        assert transit.reserve_s() == reserve_s


@pytest.mark.parametrize("total", [float("nan"), float("inf"), -1.0, 1e9])
def test_nonsense_about_the_servers_time_is_ignored(total):
    transit = Transit(0.001)
    transit.replied(0.5, total / 1e3)
    assert transit.reserve_s() == 0.001


def test_one_outlier_in_64_does_not_count():
    transit = Transit(0.001)
    for seconds in (9.0, 0.002, *[0.003] * 30, 8.0, *[0.002] * 32):
        transit.replied(seconds, 0.0)
    assert transit.reserve_s() == 0.003
    transit.replied(7.0, 0.0)
    assert transit.reserve_s() == 7.0


def test_all_attempts_together_take_no_longer_than_timeout_s(scripted, clock):
    def slow(*_):
        clock.now += 4.0
        return BUSY

    script = Script(slow)
    with pytest.raises(Overloaded):
        scripted(script, timeout_s=10.0).act(OBSERVATION)
    assert len(script.sent) == 3
    assert [timeout["read"] for timeout in script.timeouts] == pytest.approx([10.0, 5.99, 1.97])


def test_a_wait_beyond_timeout_s_is_not_started(scripted, clock):
    with pytest.raises(Overloaded) as caught:
        scripted(Script(problem(503, "overloaded", retry_after_ms=2000)), timeout_s=1.0).act(OBSERVATION)
    assert caught.value.retry_after_s == 2.0
    assert clock.slept == []


@pytest.mark.parametrize("server", [silent, lambda: trickling(STARTS["headers"]), lambda: trickling(STARTS["body"])])
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda client: client.act(OBSERVATION), ConnectionFailed),
        (lambda client: client.act(OBSERVATION, deadline_ms=150), DeadlineExceeded),
        (lambda client: client.models(), ConnectionFailed),
        (lambda client: client.wait_until_ready(0.15), NotReady),
    ],
    ids=["act", "deadline", "models", "wait_until_ready"],
)
def test_a_server_that_never_finishes_its_reply_ends_a_call_in_time(connect, server, call, kind):
    """As one that was stopped by SIGSTOP does, or a network that loses most packets."""
    with server() as url:
        client = connect(url, timeout_s=0.15)
        began = time.monotonic()
        with pytest.raises(kind) as caught:
            call(client)
        took = time.monotonic() - began
    assert isinstance(caught.value, SorlError)
    assert 0.14 < took < 5.0  # far more than it takes, far less than "for ever"


def test_a_hedge_to_a_server_that_never_answers_ends_in_time_too(connect):
    with silent() as url:
        client = connect(url, hedge=True, timeout_s=0.1)
        with pytest.raises(ConnectionFailed, match=r"within 0\.1 s"):
            client.act(OBSERVATION)


def test_a_call_can_be_cancelled():
    async def run(url):
        async with AsyncClient(url, hedge=Hedge(after_ms=0, share=1)) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.act(OBSERVATION), 0.05)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    with silent() as url:
        asyncio.run(run(url))


def test_a_client_is_forgotten_with_its_threads(fake_server):
    client = Client(fake_server().url)
    client.act(OBSERVATION)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "sorl-client"]
    client._http.close()  # else its open connection would be a warning
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    thread.join(10.0)
    assert not thread.is_alive()


def test_a_forked_process_may_use_its_copy_of_a_client(fake_server):
    """It has none of the threads that the client keeps."""
    code = f"""
import os
from sorl_client import Client
with Client({fake_server().url!r}, timeout_s=20) as client:
    client.act([0.5, -0.5])
    child = os.fork()
    if child == 0:
        client.act([0.5, -0.5])
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_calls_that_overlap_have_their_own_replies(fake_server):
    client_calls = 8
    server = fake_server()
    seen = {}
    with Client(server.url, retry=RetryPolicy(attempts=1)) as client:

        def call(seed):
            for step in range(20):
                reply = client.act(OBSERVATION, seed=1000 * seed + step)
                seen[seed, step] = reply.seed

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(client_calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {(seed, step): 1000 * seed + step for seed in range(client_calls) for step in range(20)}
