import threading

import httpx
import pytest
from sorl_client import (
    CircuitBreaker,
    CircuitOpen,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    RequestRefused,
    RetryPolicy,
    SorlError,
    WrongArgumentType,
)
from sorl_client.circuit import Circuit

from tests.client.network import BUSY, CUT, OBSERVATION, Script, problem

ONCE = RetryPolicy(attempts=1)
THREE = CircuitBreaker(failures=3, cooldown_s=2.0)
REFUSED = problem(422, "invalid_request")
TOO_SHORT = problem(504, "deadline_exceeded")


@pytest.fixture
def breaking(scripted):
    """Makes a client whose circuit opens after three failures, for 2 s; a call's error is its result."""

    def make(script, breaker=THREE, **settings):
        client = scripted(script, breaker=breaker, **{"retry": ONCE} | settings)

        def call(**fields):
            try:
                return client.act(OBSERVATION, **fields)
            except SorlError as error:
                return error

        return call

    return make


@pytest.mark.parametrize("failure", [CUT, BUSY, httpx.ReadTimeout(""), problem(500, "engine_failed"), problem(502)])
def test_after_failures_in_a_row_calls_fail_at_once(breaking, good, clock, failure):
    script = Script(failure, failure, failure, good)
    call = breaking(script)
    assert CircuitOpen not in [type(call()) for _ in range(3)]
    clock.now += 0.5
    error = call()
    assert type(error) is CircuitOpen
    assert error.retry_after_s == pytest.approx(1.5)
    assert (error.code, error.status, error.retryable) == ("circuit_open", None, True)
    assert "http://robot.test failed 3 times in a row; the next call in 1.5 s will probe it" in str(error)
    assert len(script.sent) == 3


def test_no_reply_by_the_deadline_is_a_failure(breaking, good, clock):
    def silent(request, _):
        clock.now += request.extensions["timeout"]["read"]
        return httpx.ReadTimeout("")

    call = breaking(Script(silent))
    assert [type(call(deadline_ms=20)) for _ in range(4)] == [DeadlineExceeded] * 3 + [CircuitOpen]


def test_after_the_cool_down_one_answer_closes_it(breaking, good, clock):
    script = Script(CUT, CUT, CUT, good, CUT, CUT, good)
    call = breaking(script)
    for _ in range(3):
        call()
    clock.now += 2.0
    assert call().attempts == 1
    assert [type(call()) for _ in range(2)] == [ConnectionFailed] * 2  # two in a row again, and not five
    assert call().attempts == 1


def test_after_the_cool_down_one_failure_opens_it_for_as_long_again(breaking, good, clock):
    script = Script(CUT, CUT, CUT, CUT, good)
    call = breaking(script)
    for _ in range(3):
        call()
    clock.now += 2.0
    assert [type(call()) for _ in range(2)] == [ConnectionFailed, CircuitOpen]
    clock.now += 1.99
    assert type(call()) is CircuitOpen
    clock.now += 0.02
    assert call().attempts == 1


@pytest.mark.parametrize("answer", [REFUSED, TOO_SHORT])
def test_an_answer_between_them_starts_the_count_again(breaking, good, answer):
    call = breaking(Script(CUT, CUT, answer, CUT, CUT, good))
    assert CircuitOpen not in [type(call()) for _ in range(6)]


def test_refused_requests_never_open_it(breaking):
    call = breaking(Script(REFUSED))
    assert [type(call()) for _ in range(10)] == [RequestRefused] * 10


def test_a_call_that_sends_nothing_counts_for_nothing(breaking, good):
    call = breaking(Script(CUT, CUT, good))
    call()
    call()
    assert [type(call(deadline_ms=0)) for _ in range(5)] == [DeadlineExceeded] * 5
    assert call().attempts == 1


def test_retries_end_when_it_opens(breaking, clock):
    script = Script(CUT)
    call = breaking(script, retry=RetryPolicy(attempts=10))
    assert type(call()) is ConnectionFailed
    assert len(script.sent) == 3


def test_without_a_breaker_every_call_is_sent(breaking):
    script = Script(CUT)
    call = breaking(script, breaker=None)
    assert [type(call()) for _ in range(20)] == [ConnectionFailed] * 20
    assert len(script.sent) == 20


def test_one_probe_at_a_time(good, clock):
    """While a probe waits for its answer, other threads' calls fail at once."""
    probing, others_have_failed = threading.Event(), threading.Event()
    sent = []

    def answer(request, fields):
        sent.append(fields)
        if len(sent) <= 3:
            raise httpx.ConnectError("refused")
        probing.set()
        assert others_have_failed.wait(30.0)
        return good(request, fields)

    network = httpx.MockTransport(Script(answer))
    with Client("http://robot.test", transport=network, clock=clock, retry=ONCE, breaker=THREE) as client:
        for _ in range(3):
            with pytest.raises(ConnectionFailed):
                client.act(OBSERVATION)
        clock.now += 2.0
        replies = []
        probe = threading.Thread(target=lambda: replies.append(client.act(OBSERVATION)))
        probe.start()
        assert probing.wait(30.0)
        for _ in range(5):
            with pytest.raises(CircuitOpen, match="another call will probe it"):
                client.act(OBSERVATION)
        others_have_failed.set()
        probe.join()
        assert replies[0].attempts == 1
        assert client.act(OBSERVATION).attempts == 1
    assert len(sent) == 5


def test_a_probe_that_ends_without_an_answer_leaves_the_next_to_the_next_call(breaking, good, clock):
    """As when its task is cancelled: the circuit is not stuck."""
    call = breaking(Script(CUT, CUT, CUT, ZeroDivisionError(), good))
    for _ in range(3):
        call()
    clock.now += 2.0
    with pytest.raises(ZeroDivisionError):
        call()
    assert call().attempts == 1


def test_a_failure_from_before_it_opened_makes_the_cool_down_no_longer(clock):
    circuit = Circuit(CircuitBreaker(failures=1, cooldown_s=2.0), "http://robot.test", clock)
    with circuit.attempt() as early:
        with circuit.attempt() as attempt:
            attempt.answered = False
        clock.now += 1.5
        early.answered = False
    clock.now += 0.6
    with circuit.attempt() as attempt:
        attempt.answered = True
    assert not circuit.is_open


@pytest.mark.parametrize("breaker", [True, 5, "on", {}])
def test_a_breaker_is_a_circuit_breaker_or_none(connect, breaker):
    with pytest.raises(WrongArgumentType, match="breaker: expected a CircuitBreaker or None; found") as caught:
        connect(breaker=breaker)
    assert caught.value.field == "breaker"
