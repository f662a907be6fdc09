import asyncio
import json
import subprocess
import sys

import httpx
import msgpack
import numpy as np
import pytest
import sorl_client
from sorl_client import (
    AdminDisabled,
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidReply,
    NotReady,
    Overloaded,
    RateLimited,
    ReloadFailed,
    RequestRefused,
    RetryPolicy,
    ServerFailed,
    SorlError,
    StaleReply,
    Unauthorized,
    VersionGone,
)

from tests.client.network import BUSY, CUT, OBSERVATION, Script, problem


def test_a_reply_becomes_an_action(ask, good):
    script = Script(good)
    reply = ask(script, num_candidates=8, num_steps=3, seed=2**64 - 1, priority=0, request_id="tick-1")
    assert reply.action.tolist() == [0.25, -0.75]
    assert reply.action.dtype == np.float32
    assert reply.action.flags.writeable
    assert (reply.q, reply.q_std, reply.observation_z_max) == (-1.5, 0.25, 2.0)
    assert (reply.num_candidates, reply.num_steps, reply.degraded) == (8, 3, False)
    assert (reply.seed, reply.model, reply.engine) == (2**64 - 1, "stub", "cpu/f32/stub")
    assert (reply.request_id, reply.attempts, reply.latency_ms) == ("tick-1", 1, 0.0)
    assert reply.timing_ms == {"queue": 0.1, "compute": 0.2, "total": 0.3}
    assert reply.reply["model_version"] == reply.model_version == "ab" * 32


def test_only_what_was_given_is_sent(ask, good):
    script = Script(good)
    ask(script)
    assert set(script.sent[0]) == {"observation", "on_late", "request_id"}
    assert script.sent[0]["on_late"] == "degrade"
    observation = script.sent[0]["observation"]
    assert observation[b"dtype"] == "<f4"
    assert np.frombuffer(observation[b"data"], "<f4").tolist() == OBSERVATION
    ask(script, deadline_ms=20.0, on_late="reject", min_quality=0.9, temperature=0.0, model="m", model_version="v")
    extra = {"deadline_ms", "min_quality", "temperature", "model", "model_version"}
    assert set(script.sent[1]) == {"observation", "on_late", "request_id"} | extra


def test_a_batch_keeps_its_rows(ask, good):
    def answer(request, fields):
        changes = {"action": [[1.0], [2.0]], "q": [1.0, 2.0], "q_std": [0.1, 0.2], "seed": [7, 8]}
        return good(request, fields, **changes, observation_z_max=[0.5, 1.5])

    reply = ask(Script(answer), "act", np.zeros((2, 2)), seed=7)
    assert reply.action.shape == (2, 1)
    assert reply.candidates is None
    assert reply.q.tolist() == [1.0, 2.0]
    assert reply.seed == [7, 8]
    assert reply.observation_z_max.tolist() == [0.5, 1.5]


def test_a_degraded_reply_has_its_reason_and_candidates_if_requested(ask, good):
    def answer(request, fields):
        assert fields["return_candidates"] is True
        changes = {"degraded": "20 ms allow 4 x 2", "candidates": [[0.0, 1.0], [2.0, 3.0]], "candidate_q": [0.5, 0.25]}
        return good(request, fields, **changes, num_candidates=2)

    reply = ask(Script(answer), return_candidates=True)
    assert reply.degraded == "20 ms allow 4 x 2"
    assert reply.candidates.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert reply.candidate_q.tolist() == [0.5, 0.25]


def test_json_works_too(ask, reply_to):
    def handler(request):
        fields = json.loads(request.content)
        assert request.headers["Content-Type"] == "application/json"
        assert fields["observation"] == OBSERVATION
        assert fields["seed"] == "18446744073709551615"
        return httpx.Response(200, json=reply_to(fields, [1.0, 2.0]))

    reply = ask(handler, seed=2**64 - 1, options={"media_type": "application/json"})
    assert reply.action.tolist() == [1.0, 2.0]
    assert reply.seed == 2**64 - 1


def test_the_api_key_is_sent(ask, good):
    def handler(request):
        assert request.headers["Authorization"] == "Bearer s3cret"
        return good(request, msgpack.unpackb(request.content))

    ask(handler, options={"api_key": "s3cret"})
    with pytest.raises(ValueError, match="printable ASCII"):
        ask(handler, options={"api_key": "s3crèt"})


@pytest.mark.parametrize(
    "failure", [BUSY, CUT, httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.ConnectTimeout("slow")]
)
def test_transient_failures_are_retried_with_the_same_id(ask, good, clock, failure):
    script = Script(failure, failure, failure, good)
    reply = ask(script)
    assert reply.attempts == 4
    assert len({fields["request_id"] for fields in script.sent}) == 1
    assert clock.slept == pytest.approx([0.01, 0.02, 0.04])  # half of 20, 40, 80 ms
    assert reply.latency_ms == pytest.approx(70.0)


def test_backoff_is_bounded_and_attempts_run_out(ask, clock):
    script = Script(BUSY)
    with pytest.raises(Overloaded, match=r"overloaded \(HTTP 503\): queue is full"):
        ask(script, options={"retry": RetryPolicy(attempts=4, first_s=1.0, longest_s=1.5)})
    assert len(script.sent) == 4
    assert clock.slept == [0.5, 0.75, 0.75]


def test_jitter_is_over_the_whole_wait(clock):
    draws = {0.0: 0.0, 0.999: 0.999 * 0.02}
    for draw, expected in draws.items():
        assert RetryPolicy().wait_s(0, None, lambda draw=draw: draw) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "least"),
    [
        (problem(503, "overloaded", {"Retry-After": "3"}), 3.0),
        (problem(503, "overloaded", {"Retry-After": "1"}, retry_after_ms=40), 0.04),
        (problem(503, "overloaded", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 0.0),
        (problem(503, "not_ready", {"Retry-After": "-1"}, retry_after_ms="soon"), 0.0),
        (problem(429, "rate_limited", {"Retry-After": "1"}, retry_after_ms=20), 0.02),
    ],
)
def test_retry_after_is_respected(ask, good, clock, answer, least):
    ask(Script(answer, good))
    assert clock.slept == pytest.approx([least + 0.01])


@pytest.mark.parametrize("answer", [{"retry_after_ms": 10**400}, {"headers": {"Retry-After": "9" * 400}}])
def test_a_retry_after_beyond_a_float_ends_the_call(ask, clock, answer):
    with pytest.raises(Overloaded) as caught:
        ask(Script(problem(503, "overloaded", **answer)))
    assert caught.value.retry_after_s > 1e300
    assert clock.slept == []


def test_a_retry_after_above_patience_s_ends_the_call(ask, clock):
    with pytest.raises(Overloaded) as caught:
        ask(Script(problem(503, "overloaded", {"Retry-After": "3600"})))
    assert caught.value.retry_after_s == 3600.0
    assert clock.slept == []


def test_each_attempt_sends_the_time_left_to_the_deadline(ask, good, clock):
    def slow(_, fields):
        clock.now += 0.015
        return BUSY

    script = Script(slow, slow, good)
    ask(script, deadline_ms=100.0, options={"transit_ms": 2.0})
    # 100 ms; then 15 ms of attempt and 10 of wait less; then 15 and 20 less. Each less 2 ms for the network.
    assert [fields["deadline_ms"] for fields in script.sent] == pytest.approx([98.0, 73.0, 38.0])
    assert [timeout["read"] for timeout in script.timeouts] == pytest.approx([0.1, 0.075, 0.04])


def test_a_wait_beyond_the_deadline_is_not_started(ask, clock):
    script = Script(problem(503, "overloaded", retry_after_ms=200))
    with pytest.raises(DeadlineExceeded, match=r"after 1 attempt.* \(deadline_ms was 100, in milliseconds\)") as caught:
        ask(script, deadline_ms=100.0)
    assert caught.value.status is None
    assert isinstance(caught.value.__cause__, Overloaded)
    assert clock.now == 100.0


def test_retries_end_at_the_deadline(ask, clock):
    with pytest.raises(DeadlineExceeded):
        ask(Script(CUT), deadline_ms=100.0, options={"retry": RetryPolicy(attempts=10**6, first_s=0.004)})
    assert clock.now < 100.1


def test_no_reply_by_the_deadline_is_deadline_exceeded(ask, clock):
    def silent(request, _):
        clock.now += request.extensions["timeout"]["read"]
        return httpx.ReadTimeout("")

    script = Script(silent)
    with pytest.raises(DeadlineExceeded):
        ask(script, deadline_ms=30.0)
    assert len(script.sent) == 1


def test_a_reply_after_the_deadline_is_deadline_exceeded(ask, clock, good):
    def late(request, fields):
        clock.now += 0.031
        return good(request, fields)

    with pytest.raises(DeadlineExceeded):
        ask(Script(late), deadline_ms=30.0)


@pytest.mark.parametrize("deadline_ms", [0.0, -5.0, 0.9])
def test_nothing_is_sent_after_the_deadline(ask, good, deadline_ms):
    script = Script(good)
    with pytest.raises(DeadlineExceeded, match="after 0 attempt"):
        ask(script, deadline_ms=deadline_ms)
    assert script.sent == []


def test_a_deadline_must_be_a_number(ask, good):
    with pytest.raises(ValueError, match="finite"):
        ask(Script(good), deadline_ms=float("nan"))


def test_a_timeout_without_a_deadline_is_not_retried(ask):
    script = Script(httpx.ReadTimeout(""))
    with pytest.raises(ConnectionFailed, match=r"no reply from http://robot.test within 10 s"):
        ask(script)
    assert len(script.sent) == 1
    assert script.timeouts[0]["read"] == 10.0


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (problem(422, "invalid_request", detail="28 numbers", field="observation"), RequestRefused, "invalid_request"),
        (problem(404, "unknown_model"), RequestRefused, "unknown_model"),
        (problem(409, "version_gone"), VersionGone, "version_gone"),
        (problem(409, "something_new"), RequestRefused, "something_new"),
        (problem(401, "unauthorized"), Unauthorized, "unauthorized"),
        (httpx.Response(404, json={"detail": "Not Found"}), RequestRefused, "http_404"),
        (problem(504, "deadline_exceeded"), DeadlineExceeded, "deadline_exceeded"),
        (problem(500, "engine_failed"), ServerFailed, "engine_failed"),
        (httpx.Response(501), ServerFailed, "http_501"),
        (httpx.Response(307, headers={"Location": "/elsewhere"}), ServerFailed, "http_307"),
    ],
)
def test_permanent_failures_are_raised_at_once(ask, clock, answer, kind, code):
    script = Script(answer)
    with pytest.raises(SorlError) as caught:
        ask(script)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.status == answer.status_code
    assert len(script.sent) == 1
    assert clock.slept == []


def test_an_error_reads_as_one_line(ask):
    with pytest.raises(RequestRefused) as caught:
        ask(Script(problem(422, "invalid_request", detail="expected 28 numbers", field="observation", request_id="a")))
    assert str(caught.value) == "invalid_request (HTTP 422, observation): expected 28 numbers"
    assert (caught.value.field, caught.value.request_id) == ("observation", "a")
    with pytest.raises(RequestRefused) as caught:
        ask(Script(problem(422, "invalid_request", detail="observation: found NaN", field="observation")))
    assert str(caught.value) == "invalid_request (HTTP 422): observation: found NaN"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (problem(503, "not_ready"), NotReady),
        (problem(429, "rate_limited"), RateLimited),
        (httpx.Response(503), Overloaded),
        (httpx.Response(502, html="<h1>Bad Gateway</h1>"), ServerFailed),
        (httpx.Response(500, text="Internal Server Error"), ServerFailed),
        (CUT, None),
    ],
)
def test_the_last_failure_is_the_one_raised(ask, failure, kind):
    with pytest.raises(kind or ConnectionFailed):
        ask(Script(failure))


@pytest.mark.parametrize("status", [500, 502])
def test_a_gateways_own_error_page_is_retried(ask, good, status):
    script = Script(httpx.Response(status, html="<h1>It broke</h1>"), good)
    assert ask(script, request_id="mine").attempts == 2
    assert [sent["request_id"] for sent in script.sent] == ["mine", "mine"]


@pytest.mark.parametrize("answered", ["another", None])
def test_a_reply_to_another_request_is_refused(ask, good, answered):
    script = Script(lambda request, fields: good(request, fields, request_id=answered))
    with pytest.raises(StaleReply, match="sent request_id mine"):
        ask(script, request_id="mine")
    assert len(script.sent) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"action": [0.0, float("nan")]},
        {"action": [float("inf"), 0.0]},
        {"action": 1.0},
        {"action": "left"},
        {"q": [1.0]},
        {"seed": None},
        {"timing_ms": 3},
    ],
    ids=str,
)
def test_invalid_replies_are_refused(ask, good, changes):
    with pytest.raises(InvalidReply):
        ask(Script(lambda request, fields: good(request, fields, **changes)))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<h1>It works!</h1>"),
        httpx.Response(200, content=b"\xc1", headers={"Content-Type": "application/msgpack"}),
        httpx.Response(200, json=[1]),
    ],
)
def test_bodies_that_are_not_replies_are_refused(ask, answer):
    with pytest.raises(InvalidReply):
        ask(Script(answer))


def test_models_are_listed(ask):
    assert ask(Script(httpx.Response(200, json={"models": [{"name": "a", "obs_dim": 3}]})), "models") == [
        {"name": "a", "obs_dim": 3}
    ]
    for body in ({}, [], {"models": {}}, {"models": [{}]}):
        with pytest.raises(InvalidReply, match="no list of models"):
            ask(Script(httpx.Response(200, json=body)), "models")


def test_reload_asks_for_the_model_by_name(ask):
    paths = []

    def answer(request, _):
        paths.append((request.method, request.url.raw_path, request.headers["Authorization"]))
        return httpx.Response(200, json={"model": "a/b c", "model_version": "2", "outcome": "swapped"})

    reply = ask(Script(BUSY, CUT, answer), "reload", "a/b c", options={"api_key": "sesame"})
    assert reply["outcome"] == "swapped"
    assert paths == [("POST", b"/models/a%2Fb%20c/reload", "Bearer sesame")]
    for body in ([], {}, {"model": "other"}):
        with pytest.raises(InvalidReply, match="no reload of 'a'"):
            ask(Script(httpx.Response(200, json=body)), "reload", "a")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(409, "reload_failed", detail="cube.safetensors: truncated"), ReloadFailed),
        (problem(403, "admin_disabled"), AdminDisabled),
    ],
)
def test_a_refused_reload_has_its_reason(ask, answer, kind):
    with pytest.raises(RequestRefused) as caught:
        ask(Script(answer), "reload", "cube")
    assert type(caught.value) is kind
    assert caught.value.status == answer.status_code


def test_ready_is_a_boolean_and_a_refusal_is_an_error(ask):
    assert ask(Script(httpx.Response(200)), "ready") is True
    for failure in (problem(503, "not_ready"), CUT, httpx.ConnectError("refused")):
        assert ask(Script(failure), "ready") is False
    with pytest.raises(RequestRefused):
        ask(Script(problem(401, "unauthorized")), "ready")


def test_waiting_ends_when_the_server_is_ready(ask, clock):
    ask(Script(CUT, problem(503, "not_ready"), httpx.Response(200)), "wait_until_ready", 5.0)
    assert clock.slept == [0.1, 0.1]


def test_waiting_ends_when_the_time_is_up(ask, clock):
    with pytest.raises(NotReady, match=r"not ready after 2 s: warming up"):
        ask(Script(problem(503, "not_ready", detail="warming up")), "wait_until_ready", 2.0)
    assert 101.8 <= clock.now <= 102.0


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", ""])
def test_an_invalid_url_is_refused(url):
    with pytest.raises(ValueError, match="need a URL"):
        Client(url)


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"first_s": 2.0}, {"longest_s": float("inf")}])
def test_impossible_retry_policies_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        RetryPolicy(**settings)


def test_connections_are_kept_open(fake_server):
    server = fake_server()
    with Client(server.url + "/") as client:
        client.wait_until_ready(1.0)
        for _ in range(5):
            client.act(OBSERVATION)
        assert client.models()[0]["name"] == "stub"
    assert server.connections == 1


def test_connections_are_kept_open_by_the_async_client_and_calls_overlap(fake_server):
    server = fake_server()

    async def run():
        async with AsyncClient(server.url) as client:
            for _ in range(5):
                await client.act(OBSERVATION)
            assert server.connections == 1
            return await asyncio.gather(*(client.act(OBSERVATION, seed=seed) for seed in range(4)))

    assert [reply.seed for reply in asyncio.run(run())] == [0, 1, 2, 3]


def test_network_failures_are_sorl_errors(fake_server):
    server = fake_server()
    url = server.url
    with Client(url, retry=RetryPolicy(attempts=1)) as client:
        assert client.ready()
        server.answer = lambda fields: (422, {"code": "invalid_request", "detail": "no"})
        with pytest.raises(RequestRefused):
            client.act(OBSERVATION)
        server.answer = lambda fields: (200, {"action": [0.0], "request_id": fields["request_id"]})
        with pytest.raises(InvalidReply, match="no field"):
            client.act(OBSERVATION)


def test_importing_the_client_imports_no_simulator_and_no_torch():
    heavy = ["torch", "ogbench", "gymnasium", "mujoco", "tqdm", "policy", "kernels", "service", "training"]
    code = f"import sys, sorl_client, sorl_client.drive; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_exported():
    assert all(hasattr(sorl_client, name) for name in sorl_client.__all__)
