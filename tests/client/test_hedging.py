import inspect
import math
import threading

import httpx
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sorl_client import (
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Hedge,
    RequestRefused,
    RetryPolicy,
    ServerFailed,
    StaleReply,
    WrongArgumentType,
)
from sorl_client.conversation import Arrival, Pause, Receive, Send
from sorl_client.hedging import BURST, Hedging

from tests.client.conftest import array
from tests.client.network import BUSY, OBSERVATION, Script

AT_ONCE = Hedge(after_ms=0, share=1)
WAIT_S = 30.0  # for what must happen; no test takes it


@pytest.fixture
def server(fake_server):
    """A server that holds its first reply back until `release`; `first` and `last` change the first and the others."""
    server = fake_server()
    server.release = threading.Event()
    server.first = server.last = lambda status, reply: (status, reply)
    good = server.act

    def answer(fields):
        if len(server.requests) == 1:
            assert server.release.wait(WAIT_S)
            return server.first(*good(fields))
        return server.last(*good(fields))

    server.answer = answer
    yield server
    server.release.set()


def test_a_late_reply_is_asked_for_again_and_the_first_answer_wins(connect, server):
    reply = connect(server.url, hedge=AT_ONCE).act(OBSERVATION)
    assert reply.attempts == 2
    one, other = server.requests
    assert one == other
    assert 0 <= one["seed"] < 2**53
    assert reply.seed == one["seed"]
    assert reply.request_id == one["request_id"]


def test_a_hedge_has_the_same_parts(connect, server):
    assert connect(server.url, hedge=AT_ONCE).act({"arm": [0.5, -0.5], "gripper": 0.25}).attempts == 2
    one, other = server.requests
    assert one == other
    assert one["observation"] == {"arm": array([0.5, -0.5]), "gripper": array([0.25])}


def test_the_loser_is_not_waited_for(connect, server):
    lost = threading.Event()

    def first(status, reply):
        lost.set()
        return status, reply

    server.first = first
    connect(server.url, hedge=AT_ONCE, timeout_s=2 * WAIT_S).act(OBSERVATION)
    server.release.set()
    assert lost.wait(WAIT_S)  # it was still held back


def test_the_callers_seed_is_kept(connect, server):
    assert connect(server.url, hedge=AT_ONCE).act(OBSERVATION, seed=5).seed == 5
    assert [fields["seed"] for fields in server.requests] == [5, 5]


def test_the_first_may_win_though_the_second_was_sent(connect, server):
    def second_after_the_first(status, reply):
        server.release.set()
        assert answered.wait(WAIT_S)
        return status, reply

    answered = threading.Event()
    server.last = second_after_the_first
    try:
        assert connect(server.url, hedge=AT_ONCE).act(OBSERVATION, seed=3).attempts == 2
    finally:
        answered.set()


@pytest.mark.parametrize(
    "bad",
    [
        lambda status, reply: (200, reply | {"request_id": "another"}),
        lambda status, reply: (200, reply | {"action": [float("nan")]}),
        lambda status, reply: (503, {"code": "overloaded", "detail": "full"}),
        lambda status, reply: (500, {"code": "engine_failed", "detail": "broke"}),
    ],
    ids=["stale", "invalid", "503", "500"],
)
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_bad_answer_waits_for_the_other(connect, server, bad, which):
    def then_the_other(status, reply):
        server.release.set()
        return bad(status, reply)

    if which == "last":
        server.last = then_the_other
    else:
        server.release.set()
        both = threading.Barrier(2, timeout=WAIT_S)

        def first(status, reply):
            both.wait()
            return bad(status, reply)

        def last(status, reply):
            both.wait()
            return status, reply

        server.first, server.last = first, last
    reply = connect(server.url, hedge=AT_ONCE, retry=RetryPolicy(attempts=1)).act(OBSERVATION, request_id="mine")
    assert (reply.request_id, reply.attempts) == ("mine", 2)


def test_two_bad_answers_are_an_error(connect, server):
    def stale(status, reply):
        server.release.set()
        return 200, reply | {"request_id": "another"}

    server.first = server.last = stale
    with pytest.raises(StaleReply):
        connect(server.url, hedge=AT_ONCE).act(OBSERVATION)
    assert len(server.requests) == 2


def test_a_refusal_does_not_wait_for_the_other(connect, server):
    server.last = lambda *_: (422, {"code": "invalid_request", "detail": "28 numbers"})
    with pytest.raises(RequestRefused):
        connect(server.url, hedge=AT_ONCE).act(OBSERVATION)


def test_what_the_loser_says_is_dropped(connect, server):
    """The reply to the first call, when it comes at last, is not the answer to the second call."""
    client = connect(server.url, hedge=AT_ONCE)
    first = client.act(OBSERVATION, seed=1)
    server.release.set()
    server.answer = server.act
    second = client.act(OBSERVATION, seed=2)
    assert (first.seed, second.seed) == (1, 2)
    assert first.request_id != second.request_id


def test_a_retry_is_not_hedged(clock):
    """The first request waits 30 ms before it is hedged; the retry waits for the call's end, at 10 s."""
    arguments = inspect.signature(Client.act).parameters
    optional = {name: p.default for name, p in arguments.items() if p.kind is p.KEYWORD_ONLY}
    call = Client("http://robot.test", clock=clock, hedge=Hedge(30, 1))._conversation.act(OBSERVATION, **optional)
    first = next(call)
    assert call.send(None) == Receive(clock.now + 0.03)
    assert isinstance(call.send(Arrival(first.request, BUSY)), Pause)
    assert isinstance(call.send(None), Send)
    assert call.send(None) == Receive(clock.now + 10.0)


@pytest.mark.parametrize(("share", "hedge"), [(0.0, {"hedge": Hedge(0, 0.0)}), (None, {})])
def test_nothing_is_sent_twice_unless_it_is_asked_for(scripted, clock, good, share, hedge):
    script = Script(good)
    client = scripted(script, **hedge)
    for _ in range(50):
        client.act(OBSERVATION)
    assert len(script.sent) == 50
    assert ("seed" in script.sent[0]) == bool(hedge)


def test_the_second_is_told_the_time_that_is_left_then(connect, clock, good):
    """The first is sent at 0 ms and never answered. The hedge is due at 30, of 100 ms."""
    sent, second = [], threading.Event()

    def answer(request):
        sent.append(msgpack.unpackb(request.content))
        if len(sent) == 1:
            clock.now += 0.03
            assert second.wait(WAIT_S)
        second.set()
        return good(request, sent[-1])

    hedge = Hedge(after_ms=30, share=1)
    with Client("http://robot.test", transport=httpx.MockTransport(answer), clock=clock, hedge=hedge) as client:
        client.act(OBSERVATION, deadline_ms=100.0)
    assert [fields["deadline_ms"] for fields in sent] == pytest.approx([99.0, 69.0])


def test_a_second_without_enough_time_is_not_sent(scripted, clock, good):
    def silent(request, _):
        clock.now += 0.1
        return httpx.ReadTimeout("")

    script = Script(silent)
    with pytest.raises(DeadlineExceeded):
        scripted(script, hedge=Hedge(after_ms=99.5, share=1)).act(OBSERVATION, deadline_ms=100.0)
    assert len(script.sent) == 1


@pytest.mark.parametrize("failure", [httpx.ReadTimeout(""), httpx.ReadError("reset")])
def test_failures_without_a_hedge_are_as_ever(scripted, failure):
    with pytest.raises(ConnectionFailed):
        scripted(Script(failure), hedge=True, retry=RetryPolicy(attempts=1)).act(OBSERVATION)


def test_an_error_that_is_no_networks_is_raised(scripted):
    with pytest.raises(ZeroDivisionError):
        scripted(lambda request: 1 // 0).act(OBSERVATION)


def test_a_broken_server_fails_once_both_have(connect, server):
    def broken(status, reply):
        server.release.set()
        return 500, {"code": "engine_failed", "detail": "broke"}

    server.first = server.last = broken
    with pytest.raises(ServerFailed):
        connect(server.url, hedge=AT_ONCE).act(OBSERVATION)
    assert len(server.requests) == 2


def test_it_comes_after_the_95th_percentile_of_replies():
    hedging = Hedging(Hedge())
    for milliseconds in range(1, 20):
        hedging.replied(milliseconds / 1e3)
        assert hedging.begin() is None
    hedging.replied(0.02)
    assert hedging.begin() == 0.019  # 19 of 20 are no longer than that
    for _ in range(128):
        hedging.replied(0.5)
    assert hedging.begin() == 0.5


@given(st.floats(0.0, 1.0), st.lists(st.booleans(), max_size=300))
def test_no_more_than_its_share_of_calls_is_hedged(share, late):
    """Of any calls in a row, at most `share`, and what was saved up before them."""
    hedging = Hedging(Hedge(after_ms=1, share=share))
    hedged = []
    for is_late in late:
        hedging.begin()
        hedged.append(is_late and hedging.take())
    assert sum(hedged) <= share * len(hedged) + 1e-6
    for start in range(0, len(hedged), 7):
        for end in range(start, len(hedged) + 1, 11):
            assert sum(hedged[start:end]) <= share * (end - start) + BURST + 1e-6


def test_a_long_time_without_hedges_saves_up_for_a_few():
    hedging = Hedging(Hedge(after_ms=1, share=0.1))
    for _ in range(10_000):
        hedging.begin()
    assert [hedging.take() for _ in range(10)] == [True] * 5 + [False] * 5


@given(st.floats(0.01, 1.0))
def test_its_share_is_used(share):
    hedging = Hedging(Hedge(after_ms=1, share=share))
    hedged = 0
    for _ in range(400):
        hedging.begin()
        hedged += hedging.take()
    assert hedged >= math.floor(share * 400 - 1e-6) - 1


@pytest.mark.parametrize("hedge", ["yes", 1, 0.1, None, {"share": 0.1}])
def test_hedge_is_a_boolean_or_a_hedge(connect, hedge):
    with pytest.raises(WrongArgumentType, match="hedge: expected a boolean or a Hedge; found") as caught:
        connect(hedge=hedge)
    assert caught.value.field == "hedge"
