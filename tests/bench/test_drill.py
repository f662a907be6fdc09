"""The drill against servers with planted faults, and its parts alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.connection import connect, encode_request
from bench.drill import cli
from bench.drill.client import send_all
from bench.drill.deadlines import Injected, deadline_rows
from bench.drill.faults import schedule
from bench.drill.judge import Violation, judge
from bench.drill.ledger import Answer, Ledger
from bench.drill.plan import BUDGETS, DrillRequest, plan, repeat_until
from bench.drill.versions import Timeline, Version, broken_files, make_versions
from bench.protocols import PROTOCOLS, ProtocolName, Reply
from policy import CheckpointError, load_policy
from tests.bench.planted import Request, planted_server, reply
from tests.bench.planted_protocols import Said, planted_protocols

Versions = tuple[Version, Version]
EVERY = tuple(PROTOCOLS)


class PlantedVersion(Version):
    """A stand-in for `Version` whose actions are five numbers derived from its name, the request's number, N and M."""

    def __init__(self, name: str) -> None:
        self.sha = hashlib.sha256(name.encode()).hexdigest()
        self.obs_dim = 3
        self.engine = "planted"

    def actions(self, requests: Sequence[DrillRequest], budgets: Sequence[tuple[int, int]]) -> list[np.ndarray | None]:
        seed = int(self.sha[:8], 16)
        return [
            None
            if request.kind == "extreme"
            else np.random.default_rng([seed, request.number, *budget]).normal(size=5).astype("f4")
            for request, budget in zip(requests, budgets, strict=True)
        ]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts, a millisecond apart, so that lost requests cost little time."""
    from sorl_client.retry import RetryPolicy

    monkeypatch.setattr(
        "bench.drill.client.retry_policy", lambda: RetryPolicy(attempts=3, first_s=0.001, longest_s=0.001)
    )


@pytest.fixture
def versions(impatient: None) -> Versions:
    return PlantedVersion("first"), PlantedVersion("second")


@pytest.fixture(scope="module")
def real_versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    pytest.importorskip("kernels.cpu._engine", reason="needs the native engine")
    return make_versions(tmp_path_factory.mktemp("drill"), "cpu", "bf16")


class HonestServer:
    """Replies as the first version does, in every protocol. Subclasses have one fault, for requests with `number % 8 ==
    3`."""

    def __init__(self, versions: Versions, requests: list[DrillRequest]) -> None:
        self.versions = versions
        self.requests = {request.id: request for request in requests}
        self.attempts: Counter[str] = Counter()

    def __call__(self, request_id: str | None) -> list[Said]:
        if request_id is None:
            return self.unreadable()
        request = self.requests[request_id]
        self.attempts[request.id] += 1
        if request.number % 8 == 3:
            return self.odd(request)
        return self.honest(request)

    def unreadable(self) -> list[Said]:
        """The reply to a malformed message, which has no id that could be found."""
        return [Said({"code": "invalid_request", "request_id": "none"}, 422)]

    def odd(self, request: DrillRequest) -> list[Said]:
        return self.honest(request)

    def honest(self, request: DrillRequest, named: int = 0, computed: int = 0) -> list[Said]:
        if request.kind == "malformed":
            return self.problem(request, 422, "invalid_request")
        (action,) = self.versions[computed].actions([request], [request.budget])
        if action is None:
            return self.problem(request, 422, "observation_too_large")
        return self.ok(request, action.tolist(), self.versions[named])

    def ok(self, request: DrillRequest, action: list[float], version: Version, **more: Any) -> list[Said]:
        n, m = request.budget
        fields = {"action": action, "model_version": version.sha, "engine": version.engine, "request_id": request.id}
        budget = {"num_candidates": n, "num_steps": m, "degraded": False}
        return [Said({**fields, **budget, **more})]

    def reduced(
        self, request: DrillRequest, degraded: Any = "load", computed: tuple[int, int] | None = None
    ) -> list[Said]:
        """A reply with half the candidates; `computed` are N and M of the action that it has."""
        n, m = request.budget[0] // 2, request.budget[1]
        (action,) = self.versions[0].actions([request], [computed or (n, m)])
        assert action is not None
        return self.ok(request, action.tolist(), self.versions[0], num_candidates=n, degraded=degraded)

    def problem(self, request: DrillRequest, status: int, code: str, **more: Any) -> list[Said]:
        return [Said({"code": code, "request_id": request.id, **more}, status)]


class AnswersTwice(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        return 2 * self.honest(request)


class NeverAnswers(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        return []


class WrongAction(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        return self.honest(request, named=0, computed=1)


class OneBitOff(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        (action,) = self.versions[0].actions([request], [request.budget])
        if action is None:
            return self.honest(request)
        action[2] = np.nextafter(action[2], np.float32(0.5))
        return self.ok(request, action.tolist(), self.versions[0])


class NotServedYet(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        return self.honest(request, named=1, computed=1)


class WrongId(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        (said,) = self.honest(request)
        return [Said({**said.fields, "request_id": "drill-9999999"})]


class AnswersForAnother(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        return self.honest(next(other for other in self.requests.values() if other.budget != request.budget))


class RefusesValid(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        return self.problem(request, 500, "engine_failed")


class ReducesWithoutDeadline(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        return self.reduced(request)


class LateWithoutDeadline(HonestServer):
    def odd(self, request: DrillRequest) -> list[Said]:
        return self.problem(request, 504, "deadline_exceeded")


class Elastic(HonestServer):
    """Of requests with deadlines and more than one candidate, it reduces those of 50 ms and is late for the others."""

    def honest(self, request: DrillRequest, named: int = 0, computed: int = 0) -> list[Said]:
        if request.deadline_ms is None or request.budget == (1, 1):
            return super().honest(request, named, computed)
        if request.deadline_ms == 50:
            return self.reduced(request)
        return self.problem(request, 504, "deadline_exceeded")


class HidesReduction(Elastic):
    def reduced(
        self, request: DrillRequest, degraded: Any = "load", computed: tuple[int, int] | None = None
    ) -> list[Said]:
        return super().reduced(request, degraded=False)


class MisstatesBudget(Elastic):
    """It names half the candidates, and its action is that of all."""

    def reduced(
        self, request: DrillRequest, degraded: Any = "load", computed: tuple[int, int] | None = None
    ) -> list[Said]:
        return super().reduced(request, computed=request.budget)


class GrantsMore(Elastic):
    def reduced(
        self, request: DrillRequest, degraded: Any = "load", computed: tuple[int, int] | None = None
    ) -> list[Said]:
        (action,) = self.versions[0].actions([request], [(64, request.budget[1])])
        assert action is not None
        return self.ok(request, action.tolist(), self.versions[0], num_candidates=64, degraded="load")


class LateByAnotherName(Elastic):
    def reduced(
        self, request: DrillRequest, degraded: Any = "load", computed: tuple[int, int] | None = None
    ) -> list[Said]:
        return self.problem(request, 504, "gateway_timeout")


class SwallowsPoison(HonestServer):
    def honest(self, request: DrillRequest, named: int = 0, computed: int = 0) -> list[Said]:
        return self.ok(request, [0.0] * 5, self.versions[0])

    def unreadable(self) -> list[Said]:
        return self.honest(DrillRequest(0, "plain"))


class ComesAndGoes(HonestServer):
    """Like a restart: a 503 with a retry time, then a broken connection, then the reply."""

    def odd(self, request: DrillRequest) -> list[Said]:
        if self.attempts[request.id] == 1:
            return self.problem(request, 503, "not_ready", retry_after_ms=1)
        return [] if self.attempts[request.id] == 2 else self.honest(request)


def drill(
    server: Callable[[Versions, list[DrillRequest]], HonestServer], versions: Versions, requests: list[DrillRequest]
) -> tuple[Ledger, HonestServer, list[Violation]]:
    ledger, planted = Ledger(), server(versions, requests)

    async def run() -> None:
        async with planted_protocols(planted, lambda request_id: planted.requests[request_id].protocol) as at:
            await send_all(at, requests, versions[0].obs_dim, ledger, clients=4)

    asyncio.run(run())
    known = {version.sha: version for version in versions}
    return ledger, planted, judge(requests, ledger, known, Timeline(versions[0].sha))


def test_an_honest_server_passes_in_every_protocol(versions: Versions) -> None:
    requests = plan(192, 24, 48, EVERY)
    assert {request.protocol for request in requests if request.kind == "malformed"} == {*EVERY}
    ledger, server, violations = drill(HonestServer, versions, requests)
    assert violations == []
    assert len(ledger.answers) == 192
    assert ledger.counts["hang-ups"] == 24
    assert ledger.counts["attempts"] == 192
    assert all(attempts in (1, 2) for attempts in server.attempts.values())
    rows = cli.protocol_rows(ledger, EVERY)
    assert {row["protocol"]: row["requests"] for row in rows} == Counter(request.protocol for request in requests)
    assert sum(row["200"] for row in rows) == 192 - 48


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (WrongAction, "wrong action"),
        (OneBitOff, "wrong action"),
        (NotServedYet, "wrong version"),
        (WrongId, "wrong id"),
        (AnswersForAnother, "wrong id"),
        (RefusesValid, "valid request refused"),
        (ReducesWithoutDeadline, "wrong budget"),
        (LateWithoutDeadline, "valid request refused"),
    ],
)
def test_a_planted_fault_is_found_in_every_protocol(server: type[HonestServer], kind: str, versions: Versions) -> None:
    requests = plan(224, 0, 0, EVERY)
    _, _, violations = drill(server, versions, requests)
    odd = [request for request in requests if request.number % 8 == 3]
    assert {request.protocol for request in odd} == {*EVERY}
    assert Counter(violation.where for violation in violations) == Counter(request.id for request in odd)
    assert {violation.kind for violation in violations} == {kind}


@pytest.mark.parametrize("protocol", EVERY)
def test_a_second_answer_is_found(protocol: ProtocolName, versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken for the next request's, or is unsolicited. With one, gRPC never ends the call."""
    if protocol == "open-inference-grpc":
        monkeypatch.setattr("bench.drill.client.PATIENCE_S", 1.0)
    _, _, violations = drill(AnswersTwice, versions, plan(64, 0, 0, (protocol,)))
    assert violations
    kinds = {violation.kind for violation in violations}
    assert kinds <= ({"lost"} if protocol == "open-inference-grpc" else {"answered twice", "wrong id"})


@pytest.mark.parametrize("protocol", EVERY)
def test_a_lost_request_is_found(protocol: ProtocolName, versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server closes the connection, or over ZeroMQ, where it can't close one, says nothing."""
    if protocol == "groot":
        monkeypatch.setattr("bench.drill.client.PATIENCE_S", 1.0)
    requests = plan(8, 0, 0, (protocol,))
    _, _, violations = drill(NeverAnswers, versions, requests)
    assert [(violation.kind, violation.where) for violation in violations] == [("lost", "drill-0000003")]


def elastic(request: DrillRequest) -> bool:
    return request.deadline_ms is not None and request.budget != (1, 1)


def test_reduced_and_late_replies_to_deadlines_are_counted_not_judged(versions: Versions) -> None:
    requests = plan(96, 8, 8)
    ledger, _, violations = drill(Elastic, versions, requests)
    assert violations == []
    times = {number: answers[0] for number, answers in ledger.answers.items()}
    first = min(answer.sent for answer in times.values())
    last = max(answer.received for answer in times.values())
    for fault, under in (("reload", "a reload"), ("broken reload", "a reload"), ("restart", "a restart")):
        rows = deadline_rows(ledger, [Injected(fault, first, last)])  # type: ignore[arg-type]
        found = {row["under"]: (row["requests"], row["reduced"], row["504"]) for row in rows}
        counts = [sum(elastic(r) and r.deadline_ms == deadline for r in requests) for deadline in (50, 100)]
        assert min(counts) > 0
        assert found.pop(under) == (sum(r.deadline_ms is not None for r in requests), *counts)
        assert set(found.values()) == {(0, 0, 0)}


def test_each_deadline_is_counted_under_what_it_met() -> None:
    """Requests 4, 5, ... have 50 ms. Three take 20, 80 and 10 ms: before, in, and after a reload that a restart met."""
    ledger = Ledger()
    for number, sent, received in ((4, 0.0, 0.02), (5, 1.0, 1.08), (6, 2.0, 2.01)):
        granted = {"num_candidates": BUDGETS[number % 4][0], "num_steps": BUDGETS[number % 4][1]}
        reply = Reply(200, frozenset(), granted)
        ledger.answered(Answer(DrillRequest(number, "plain"), reply, sent, received))
    ledger.answered(Answer(DrillRequest(0, "plain"), Reply(200, frozenset()), 1.0, 9.0))  # without a deadline
    restart, reload, neither = deadline_rows(ledger, [Injected("reload", 1.05, 2.5), Injected("restart", 1.9, 2.2)])
    assert (restart["requests"], restart["late"], restart["worst ms"]) == (1, 0, pytest.approx(10))
    assert (reload["requests"], reload["late"], reload["worst ms"]) == (1, 1, pytest.approx(80))
    assert (neither["requests"], neither["late"], neither["worst ms"]) == (1, 0, pytest.approx(20))
    assert deadline_rows(Ledger(), [])[0]["worst ms"] is None


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (HidesReduction, "wrong budget"),
        (GrantsMore, "wrong budget"),
        (MisstatesBudget, "wrong action"),
        (LateByAnotherName, "valid request refused"),
    ],
)
def test_a_planted_fault_in_replies_to_deadlines_is_found(
    server: type[HonestServer], kind: str, versions: Versions
) -> None:
    requests = plan(64, 0, 0)
    _, _, violations = drill(server, versions, requests)
    expected = {request.id for request in requests if elastic(request) and request.deadline_ms == 50}
    assert {violation.where for violation in violations} == expected
    assert {violation.kind for violation in violations} == {kind}


@pytest.mark.parametrize("protocol", EVERY)
def test_a_reply_to_a_malformed_request_is_a_violation(protocol: ProtocolName, versions: Versions) -> None:
    requests = plan(16, 0, 16, (protocol,))
    _, _, violations = drill(SwallowsPoison, versions, requests)
    kinds = Counter(violation.kind for violation in violations)
    assert kinds == {"poison not refused": 8, "poison not contained": 8}


def test_a_client_retries_until_there_is_a_reply(versions: Versions) -> None:
    """Not over ZeroMQ, where a server can't close one client's connection."""
    requests = plan(192, 0, 0, [name for name in EVERY if name != "groot"])
    ledger, server, violations = drill(ComesAndGoes, versions, requests)
    assert violations == []
    odd = [request for request in requests if request.number % 8 == 3]
    assert all(server.attempts[request.id] == 3 for request in odd)
    assert ledger.counts["answers 503"] == ledger.counts["connections refused or broken"] == len(odd)


def test_two_final_replies_are_a_violation(versions: Versions) -> None:
    requests = plan(1, 0, 0)
    ledger, _, _ = drill(HonestServer, versions, requests)
    ledger.answered(ledger.answers[0][0])
    violations = judge(requests, ledger, {version.sha: version for version in versions}, Timeline(versions[0].sha))
    assert [violation.kind for violation in violations] == ["answered twice"]


def test_an_unsolicited_reply_is_counted() -> None:
    async def run() -> int:
        received = asyncio.Event()

        async def answering(request: Request) -> bytes:
            received.set()
            return 3 * reply({"a": 1})

        async with planted_server(answering) as url:
            connection = await connect(url)
            assert (await connection.send(encode_request("POST", "/act", b"{}"))).json() == {"a": 1}
            while connection.surplus < 2:
                await asyncio.sleep(0)
            return connection.surplus

    assert asyncio.run(asyncio.wait_for(run(), 30)) == 2


def test_the_timeline_allows_both_versions_during_a_reload() -> None:
    timeline = Timeline("a")
    timeline.begins("b", 10.0)
    timeline.replaced(12.0)
    assert timeline.allows("a", 9.0, 9.5)
    assert not timeline.allows("b", 9.0, 9.5)
    assert timeline.allows("a", 11.0, 14.0)
    assert timeline.allows("b", 11.0, 14.0)
    assert not timeline.allows("a", 12.5, 13.0)
    timeline.begins("a", 20.0)
    timeline.replaced(21.0)
    assert timeline.allows("a", 22.0, 23.0)
    assert not timeline.allows("b", 22.0, 23.0)


def test_a_plan_has_the_configured_counts() -> None:
    requests = plan(1000, 50, 25)
    assert Counter(request.kind for request in requests) == {
        "plain": 925,
        "hang-up": 50,
        "malformed": 13,
        "extreme": 12,
    }
    assert [request.number for request in requests] == list(range(1000))
    assert plan(1000, 50, 25) == requests
    shares = Counter((request.kind, request.protocol) for request in plan(1000, 50, 25, EVERY))
    for kind, count in Counter(request.kind for request in requests).items():
        assert {shares[kind, protocol] for protocol in EVERY} <= {count // 8, count // 8 + 1}
    with pytest.raises(ValueError, match="hang_ups"):
        plan(10, 8, 8)


def test_requests_continue_until_it_is_enough() -> None:
    requests = plan(4, 2, 0, ("openpi", "groot"))
    kinds = [(request.kind, request.protocol) for request in requests]
    yielded = list(repeat_until(requests, lambda: len(requests) >= 10))
    assert yielded == requests
    assert [request.number for request in requests] == list(range(10))
    assert [(request.kind, request.protocol) for request in requests] == (kinds * 3)[:10]


def test_faults_are_spread_over_the_requests() -> None:
    faults = schedule(14_000, reloads=10, broken=2, restarts=3)
    assert [after for after, _ in faults] == [1000 * i for i in range(1, 14)]
    assert Counter(fault for _, fault in faults) == {"reload": 8, "broken reload": 2, "restart": 3}
    assert schedule(100, 0, 0, 0) == []
    with pytest.raises(ValueError, match="broken"):
        schedule(100, 1, 2, 0)


def test_versions_differ_and_actions_do_not_depend_on_the_batch(real_versions: Versions) -> None:
    requests = plan(8, 0, 0)
    budgets = [request.budget for request in requests]
    first, second = (version.actions(requests, budgets) for version in real_versions)
    assert all(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))  # type: ignore[arg-type]
    for request, action in zip(requests, first, strict=True):
        np.testing.assert_array_equal(real_versions[0].actions([request], [request.budget])[0], action)


def test_broken_files_are_refused(real_versions: Versions, tmp_path: Path) -> None:
    for number, content in enumerate(broken_files(real_versions[0].content, tmp_path)):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_policy(path)


def test_an_extreme_observation_is_finite_itself(real_versions: Versions) -> None:
    extreme = DrillRequest(5, "extreme")
    assert np.isfinite(extreme.observation(28)).all()
    assert real_versions[0].actions([extreme], [extreme.budget]) == [None]


def test_status_1_for_a_violation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {
        "machine": "m",
        "engine": "e",
        "seconds": 1.0,
        "asked": {"plain": 2},
        "on the way": {"attempts": 2},
        "faults": {"restarts": 1},
        "final answers": {"200": 1},
        "protocols": cli.protocol_rows(Ledger(), EVERY),
        "left out": ["groot needs pyzmq"],
        "deadlines": deadline_rows(Ledger(), []),
        "violations": [{"kind": "lost", "where": "drill-0000001", "detail": "never sent"}],
    }
    monkeypatch.setattr(cli, "run", lambda config: report)
    assert cli.main(["--json", str(tmp_path / "drill.json")]) == 1
    shown = capsys.readouterr()
    assert "lost: drill-0000001: never sent" in shown.err
    assert "left out: groot needs pyzmq\n" in shown.out
    assert json.loads((tmp_path / "drill.json").read_text()) == report
    report["violations"] = []
    assert cli.main([]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("reloads", "broken"), [(0, 0), (3, 1)])
def test_a_real_server_survives(reloads: int, broken: int) -> None:
    pytest.importorskip("kernels.cpu._engine", reason="needs the native engine")
    config = cli.DrillConfig(
        requests=300, hang_ups=20, poison=20, reloads=reloads, broken=broken, restarts=1, threads=1
    )
    report = cli.run(config)
    assert report["violations"] == []
    assert Counter(report["faults"]) == Counter({"restarts": 1, "reloads": reloads - broken, "broken reloads": broken})
    assert sum(report["final answers"].values()) == sum(report["asked"].values()) >= 300
    assert sum(row["requests"] for row in report["deadlines"]) > 100
    assert all(row["200"] > 20 for row in report["protocols"])
