"""`sorl-bench serve`, mostly without servers: comparisons, counts and tables."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench import wrk
from bench.closedloop import ClosedLoad
from bench.openloop import GeneratorTooSlow, Samples
from bench.peers_http.sampler import Options, TorchPolicy
from bench.protocols import PROTOCOLS, Ask, Reply, ServerAddress
from bench.serving import cli, elastic, head_of_line, overload, peak, protocols
from bench.serving.check import Checker, WrongAnswer
from bench.serving.contestants import OURS, PEERS, Contestant, calibrated, contestants
from bench.serving.models import PLANTED, policy_with_frontier
from bench.serving.setup import ServeBenchConfig, Setup
from kernels.backend import SampleBatch
from kernels.philox import standard_normals
from kernels.reference import ReferenceBackend
from policy import Policy, load_policy, save_policy
from tests.bench.planted import Request, planted_server, reply
from tests.policies import random_policy


@dataclass(frozen=True)
class NamedOnly(Contestant):
    """A contestant without a server; its URL is its name."""

    def serving(self, model: Path, body: Path) -> AbstractContextManager[Any]:
        return nullcontext(SimpleNamespace(url=self.name, pid=0))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return random_policy(normaliser="standardise", action_low=(-2.0, -1.0, 0.0), action_high=(1.0, 1.0, 4.0))


@pytest.fixture
def setup(policy: Policy, tmp_path: Path) -> Setup:
    servers: list[Contestant] = [NamedOnly("ours, a"), NamedOnly("ours, b"), NamedOnly("peer", package="peer")]
    config = ServeBenchConfig(connections=(1, 4), rounds=3, seconds=0.5, out=tmp_path / "out")
    return Setup(config, tmp_path, policy, tmp_path / "none", servers)


def samples(*rows: tuple[int, float, int, int]) -> Samples:
    """Samples of tuples (status, latency in ms, N, M)."""
    status, latency, n, m = (np.array(column) for column in zip(*rows, strict=True))
    empty = Samples.unanswered(np.arange(len(rows), dtype=float))
    return replace(
        empty,
        status=status.astype(np.int16),
        latency=latency / 1e3,
        num_candidates=n.astype(np.int32),
        num_steps=m.astype(np.int32),
    )


# Peers


def peer_replies(policy: Policy, folder: Path, precision: str, budgets: list[tuple[int, int]]) -> tuple[Any, Any]:
    """The peers' replies to a batch of mixed budgets, and the reference's actions for the same noise."""
    path = folder / "policy.safetensors"
    save_policy(policy, path)
    torch_threads = torch.get_num_threads()
    sampler = TorchPolicy(Options(path, 0, torch_threads, 1, precision))
    observation = np.random.default_rng(0).standard_normal((len(budgets), policy.spec.obs_dim)).astype(np.float32)
    requests = []
    for seed, (n, m) in enumerate(budgets):
        noise = standard_normals(torch.full((n,), seed), torch.arange(n), policy.spec.action_dim).tolist()
        seen = observation[seed].tolist()
        requests.append({"observation": seen, "num_candidates": n, "num_steps": m, "noise": noise})
    n, m = zip(*budgets, strict=True)
    result = ReferenceBackend(policy).sample_and_score(SampleBatch.of(observation, n, m, range(len(budgets))))
    return sampler(requests), result


def test_the_peers_sampler_equals_the_reference_in_a_mixed_batch(policy: Policy, tmp_path: Path) -> None:
    budgets = [(4, 2), (1, 1), (4, 2), (32, 4), (1, 1)]
    replies, result = peer_replies(policy, tmp_path, "fp32", budgets)
    expected = policy.spec.action_to_environment(result.action)
    np.testing.assert_allclose([reply["action"] for reply in replies], expected, atol=2e-4)
    np.testing.assert_allclose([reply["q"] for reply in replies], result.q, atol=2e-4)
    assert [(reply["num_candidates"], reply["num_steps"]) for reply in replies] == budgets


def test_the_peers_sampler_in_bf16_equals_the_reference_within_rounding(policy: Policy, tmp_path: Path) -> None:
    replies, result = peer_replies(policy, tmp_path, "bf16", [(1, 4)] * 4)
    expected = policy.spec.action_to_environment(result.action)
    np.testing.assert_allclose([reply["action"] for reply in replies], expected, atol=0.1)


def test_without_noise_the_peer_draws_its_own(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(policy, path)
    sampler = TorchPolicy(Options(path, 0, torch.get_num_threads(), 1, "fp32"))
    request = {"observation": [0.0] * policy.spec.obs_dim, "num_candidates": 1, "num_steps": 4}
    drawn = np.array([reply["action"] for reply in sampler([request] * 500)])
    seeds = range(500)
    batch = SampleBatch.of(np.zeros((500, policy.spec.obs_dim), np.float32), 1, 4, seeds)
    ours = policy.spec.action_to_environment(ReferenceBackend(policy).sample_and_score(batch).action)
    error = ours.std(axis=0) * np.sqrt(2 / 500)
    assert (np.abs(drawn.mean(axis=0) - ours.mean(axis=0)) < 5 * error).all()
    np.testing.assert_allclose(drawn.std(axis=0), ours.std(axis=0), rtol=0.25)


def test_options_come_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--model", "a.st", "--port", "5", "--threads", "2", "--precision", "bf16"])
    assert Options.parse() == Options(Path("a.st"), 5, 2, 1, "bf16")


def test_the_checker_accepts_right_actions_and_refuses_wrong_ones(policy: Policy) -> None:
    checker = Checker(policy, num_candidates=4, num_steps=2)
    result = ReferenceBackend(policy).sample_and_score(
        SampleBatch.of(np.array([checker._fields["observation"]]), 4, 2, 7, return_candidates=True)
    )
    assert result.candidates is not None
    best = policy.spec.action_to_environment(result.action[0])
    candidates = policy.spec.action_to_environment(result.candidates[0])
    other = candidates[(int(result.index[0]) + 1) % 4]
    checker.compare({"action": best.tolist()}, "fp32")
    checker.compare({"action": (best + 0.01).tolist()}, "bf16")
    checker.compare({"action": other.tolist()}, "bf16")
    for action, precision in [
        (other.tolist(), "fp32"),
        ((best + 0.01).tolist(), "fp32"),
        ((candidates.max(axis=0) + 0.5).tolist(), "bf16"),
        (best.tolist()[:-1], "fp32"),
        ([float("nan")] * 3, "bf16"),
        (None, "fp32"),
    ]:
        with pytest.raises(WrongAnswer, match="action:"):
            checker.compare({"action": action}, precision)


def test_a_peer_that_is_not_installed_is_named_and_skipped(tmp_path: Path, policy: Policy) -> None:
    absent = Path(shutil.which("false") or "/bin/false")  # a Python that has nothing
    everyone = contestants((), 0, absent)
    assert [c.name for c in everyone] == [*OURS, *PEERS]
    peers = [c for c in everyone if not c.ours]
    assert all("is not installed" in c.failed for c in peers)
    checker = Checker(policy, 1, 1)
    assert calibrated(peers[0], tmp_path, tmp_path, checker, 1.0) == peers[0]
    assert [c.name for c in contestants(("bf16", "mosec"), 0, absent)] == [
        "ours, cpu/bf16",
        "ours, cpu/bf16, 1 thread",
        "mosec",
    ]
    assert {c.name: c.flags.count("--threads") for c in everyone if c.ours} == dict.fromkeys(OURS, 1)
    with pytest.raises(ValueError, match="no name contains 'nobody'"):
        contestants(("nobody",), 0, absent)


def test_calibration_takes_the_setting_with_the_most_requests_per_second(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serving(self: Contestant, model: Path, body: Path) -> AbstractContextManager[Any]:
        if "fp32" in self.flags:
            raise RuntimeError("does not start")
        return nullcontext(SimpleNamespace(url=" ".join(self.flags)))

    def load(url: str, body: Path, clients: int, seconds: float) -> dict[str, float]:
        fast = "--threads 1 --workers 1" in url
        return {"requests": 90.0 if fast else 100.0, "failed": 0.0 if fast else 50.0, "seconds": 1.0}

    monkeypatch.setattr(Contestant, "serving", serving)
    monkeypatch.setattr(wrk, "load", load)
    monkeypatch.setattr("bench.serving.contestants.available_cores", lambda: 4)
    checker = Checker(policy, 1, 1)
    monkeypatch.setattr(checker, "check", lambda url, precision: None)
    peer = Contestant("peer", package="peer")
    best = calibrated(peer, tmp_path, tmp_path, checker, 1.0)
    assert best.flags == ("--threads", "1", "--workers", "1", "--precision", "bf16")

    def wrong(url: str, precision: str) -> None:
        raise WrongAnswer("action: 0.5 from the reference's")

    monkeypatch.setattr(checker, "check", wrong)
    assert "0.5 from the reference's" in calibrated(peer, tmp_path, tmp_path, checker, 1.0).failed


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_real_peer_answers_as_the_reference_does(name: str, setup: Setup) -> None:
    (peer,) = contestants((name,), 0, Path(sys.executable))
    if peer.failed:
        pytest.skip(peer.failed)
    save_policy(setup.policy, setup.model)
    checker = Checker(setup.policy)
    for precision in ("fp32", "bf16"):
        flags = ("--threads", "1", "--workers", "2", "--precision", precision)
        with replace(peer, flags=flags).serving(setup.model, setup.body(1, 1)) as server:
            checker.check(server.url, precision)


# The policy


def test_the_planted_frontier_has_at_least_15_useful_points(tmp_path: Path) -> None:
    planted = policy_with_frontier()
    save_policy(planted, tmp_path / "planted.safetensors")
    spec = load_policy(tmp_path / "planted.safetensors").spec
    assert "planted" in spec.provenance.notes
    assert spec.provenance.notes == PLANTED

    def cost(cell: Any) -> int:
        return int(cell.num_candidates * (cell.num_steps + spec.ensemble_size))

    worth = [
        cell
        for cell in spec.frontier
        if not any(cost(o) <= cost(cell) and o.success > cell.success for o in spec.frontier)
    ]
    worth.sort(key=cost)
    assert len({(cell.num_candidates, cell.num_steps) for cell in worth}) >= 15
    assert all(worse.high < better.low for worse, better in pairwise(worth))


# Sections


def test_peak_compares_round_by_round(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter(range(1000))

    def load(url: str, body: Path, clients: int, seconds: float) -> dict[str, float]:
        drift = 1 + next(rounds) // (3 * 2 * 2 * 2)  # the machine's speed changes from round to round
        rate = {"ours, a": 300, "ours, b": 100, "peer": 200}[url]
        return {"requests": rate * drift * clients, "seconds": 1.0, "p50_ms": 1.0, "p99_ms": 2.0, "failed": 0.0}

    monkeypatch.setattr(wrk, "load", load)
    monkeypatch.setattr(peak, "gemm_peak", lambda dtype, threads: 1.0)
    report = peak.run(setup)
    rows = report["rows"]
    assert len(rows) == 3 * 2 * 2
    assert report["gemm_peak_gflops"] == 1.0
    assert {row["x best peer"] for row in rows if row["server"] == "ours, a"} == {1.5}
    assert {row["x best peer"] for row in rows if row["server"] == "ours, b"} == {0.5}
    assert {row["x best peer"] for row in rows if row["server"] == "peer"} == {None}
    found = next(row for row in rows if row["server"] == "ours, a" and row["clients"] == 4)
    assert found["requests/s"] == 300 * 4 * 2
    per_row = 4 * sum(p.numel() for p in setup.policy.actor.parameters() if p.ndim == 2)
    per_row += sum(p.numel() for p in setup.policy.critic.parameters() if p.ndim == 3)
    served = 2e-9 * 300 * 4 * 2 * 32 * per_row  # an upper bound: the observation's share is computed once, not 32 times
    assert found["(N,M)"] == "(32,4)"
    assert 0.5 * served < found["of peak"] < served


def test_head_of_lines_aim_is_two_batches(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[str] = []

    def load(url: str, body: Path, clients: int, seconds: float) -> dict[str, float]:
        slow = {"ours, a": 9.0, "peer": 30.0}[url] if url in beside else 0.0
        assert json.loads(body.read_text())["num_candidates"] == 1
        return {"p50_ms": 1.0, "p99_ms": 2.0 + slow, "failed": 0.0}

    def background(url: str, body: Path, clients: int) -> AbstractContextManager[None]:
        assert (json.loads(body.read_text())["num_candidates"], clients) == (256, 4)
        beside.append(url)
        return nullcontext()

    monkeypatch.setattr(wrk, "load", load)
    monkeypatch.setattr(wrk, "background", background)
    setup = replace(setup, config=replace(setup.config, rounds=1))
    ours, peer = head_of_line.run(setup)["rows"]
    assert (ours["server"], ours["aim ms"], ours["met"]) == ("ours, a", 12.0, "yes")
    assert (peer["server"], peer["p99 beside ms"], peer["met"]) == ("peer", 32.0, "no")


def test_overload_counts_replies_in_time_and_refusals_in_time() -> None:
    found = overload.summarise(
        samples(
            (200, 10, 1, 1), (200, 49, 1, 1), (200, 51, 1, 1),  # two in time, one late
            (503, 3, 0, 0), (504, 49, 0, 0), (504, 60, 0, 0),  # two refused in time, one too late
            (500, 1, 0, 0), (0, np.inf, 0, 0),  # neither
        ),
        deadline_ms=50.0,
        seconds=2.0,
    )  # fmt: skip
    assert found["offered/s"] == 4.0
    assert found["goodput/s"] == 1.0
    assert (found["accepted"], found["others"]) == (3, 5)
    assert found["of these in time"] == pytest.approx(2 / 3)
    assert found["refused in time"] == pytest.approx(2 / 5)


def test_overload_reports_a_row_for_every_server(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[tuple[str, float]] = []

    def at(self: overload.Load, rate: float, seconds: float, memory: Any = None, pid: int = 0) -> Samples:
        if self.url == "peer":
            raise GeneratorTooSlow("the lag was 99 ms")
        assert self.fields["on_late"] == "reject"
        offered.append((self.url, rate))
        if memory is not None:
            memory += [(second, 100.0 + second) for second in range(20)]
        return samples(*[(200, 1, 32, 4)] * int(min(rate, 90) * seconds), (504, 1, 0, 0))

    monkeypatch.setattr(overload.Load, "at", at)
    monkeypatch.setattr(wrk, "load", lambda *_: {"requests": 100.0, "seconds": 1.0})
    setup = replace(setup, config=replace(setup.config, seconds=1.0, overload_seconds=10.0))
    report = overload.run(setup)
    ours, peer = report["rows"]
    assert list(ours) == list(peer)
    assert offered[-1] == ("ours, a", 270.0)
    assert (ours["peak/s"], ours["of peak"], ours["note"]) == (90.0, 1.0, "")
    assert (ours["MiB early"], ours["MiB end"]) == (102.0, 119.0)
    assert peer["note"] == "the lag was 99 ms"
    assert peer["goodput/s"] is None
    assert len(report["memory"]["ours, a"]) == 20


FRONTIER = [
    {"num_candidates": 1, "num_steps": 1, "success": 0.4},
    {"num_candidates": 8, "num_steps": 2, "success": 0.6},
    {"num_candidates": 8, "num_steps": 8, "success": 0.7},
]


@pytest.mark.parametrize(
    ("granted", "expected"), [((1, 1), 0.4), ((8, 2), 0.6), ((64, 4), 0.6), ((64, 8), 0.7), ((7, 8), 0.4), ((0, 0), 0)]
)
def test_expected_success_is_that_of_the_best_cell_within_the_budget(granted: tuple[int, int], expected: float) -> None:
    assert elastic.expected_success(FRONTIER, *granted) == expected


def test_elastic_reports_the_granted_budgets(tmp_path: Path) -> None:
    found = elastic.summarise(samples((200, 5, 8, 8), (200, 10, 8, 8), (200, 30, 1, 1), (504, 20, 0, 0)), 2.0, FRONTIER)
    assert (found["N"], found["M"], found["answered"]) == (8, 8, 3)
    assert found["success"] == pytest.approx((0.7 + 0.7 + 0.4) / 3)
    assert found["in time"] == 0.5
    assert found["p50 ms"] == pytest.approx(10.0)
    rows = [{**dict.fromkeys(elastic.COLUMNS), **found, "offered/s": rate, "note": ""} for rate in (1.0, 10.0)]
    rows.append({**dict.fromkeys(elastic.COLUMNS), "offered/s": 100.0, "note": "late"})
    report = {"server": "s", "deadline_ms": 20.0, "saturation/s": 5.0, "frontier is": "planted", "rows": rows}
    elastic.write(report, tmp_path / "new")
    written = [*csv.DictReader((tmp_path / "new" / "elastic.csv").read_text().splitlines())]
    assert [row["N"] for row in written] == ["8", "8", ""]
    assert (tmp_path / "new" / "elastic.png").read_bytes().startswith(b"\x89PNG")


def test_elastic_sweeps_from_one_request_a_second_to_three_times_saturation(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []

    def at(self: overload.Load, rate: float, seconds: float) -> Samples:
        assert set(self.fields) == {"observation"}
        asked.append((rate, seconds))
        if len(asked) == 4:
            raise GeneratorTooSlow("late")
        return samples((200, 5, 8, 8))

    described = {"frontier": FRONTIER, "provenance": {"notes": "planted"}}
    monkeypatch.setattr(elastic, "get_models", lambda url: [described])
    monkeypatch.setattr(elastic, "peak_goodput", lambda setup, load: 50.0)
    monkeypatch.setattr(overload.Load, "at", at)
    report = elastic.run(setup)
    assert asked[0] == (1.0, 20.0)
    assert asked[-1] == (pytest.approx(150.0), 0.5)
    assert [row["note"] for row in report["rows"]] == ["", "", "", "late", *[""] * 5]
    assert setup.config.out is not None
    assert (setup.config.out / "elastic.csv").exists()


def test_protocols_are_compared_turn_by_turn(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[ClosedLoad] = []
    compared: list[tuple[int, int]] = []

    def measure(load: ClosedLoad) -> dict[str, list[dict[str, float]]]:
        loads.append(load)
        drift = 1 + (len(loads) - 1) // 4  # the machine's speed changes from round to round, and from turn to turn
        rates = {"http-json": 200, "openpi": 300}
        rest = {"p50 ms": 1.0 * drift, "p99 ms": 2.0, "server us": 3.0, "client us": 4.0, "failed": 1}
        return {
            name: [
                {"requests/s": rates.get(name, 100) * (drift + turn) * load.clients, **rest}
                for turn in range(load.turns)
            ]
            for name in load.protocols
        }

    monkeypatch.setattr(protocols, "measure", measure)
    monkeypatch.setattr(protocols, "addresses", lambda server: server.url)
    monkeypatch.setattr(
        protocols, "compare", lambda at, ask, names: compared.append((ask.num_candidates, ask.num_steps))
    )
    report = protocols.run(setup)
    assert report["server"] == "ours, a"
    assert compared == [(1, 1), (32, 4)] * 3
    places = [((load.ask.num_candidates, load.ask.num_steps), load.clients) for load in loads]
    assert places == [((1, 1), 1), ((1, 1), 4), ((32, 4), 1), ((32, 4), 4)] * 3
    assert {(load.seconds * load.turns, load.protocols) for load in loads} == {(0.5, tuple(PROTOCOLS))}
    rows = report["rows"]
    assert len(rows) == len(PROTOCOLS) * 2 * 2
    assert {row["x http-json"] for row in rows if row["protocol"] == "openpi"} == {1.5}
    assert {row["x http-json"] for row in rows if row["protocol"] == "groot"} == {0.5}
    found = next(row for row in rows if (row["protocol"], row["clients"]) == ("openpi", 4))
    rates = [300 * 4 * (drift + turn) for drift in (1, 2, 3) for turn in range(8)]
    assert (found["(N,M)"], found["requests/s"], found["p50 ms"]) == ("(1,1)", np.median(rates), 2.0)
    assert found["failed"] == 3 * 8
    written = json.loads(json.dumps(report))
    turns = [turn for turn in written["turns"] if (turn["protocol"], turn["clients"]) == ("openpi", 4)]
    assert [turn["requests/s"] for turn in turns if turn["(N,M)"] == "(1,1)"] == rates
    assert [(turn["round"], turn["turn"]) for turn in turns[:24]] == [(i, j) for i in range(3) for j in range(8)]
    assert len(written["turns"]) == len(rows) * 3 * 8
    assert set(rows[0]) - {"x http-json"} == set(turns[0]) - {"round", "turn"}


def test_protocols_that_are_not_installed_are_left_out_with_a_line(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"requests/s": 1.0, "p50 ms": 1.0, "p99 ms": 2.0, "server us": 3.0, "client us": 4.0, "failed": 0}
    started: list[tuple[str, ...]] = []

    def serving(contestant: NamedOnly, model: Path, body: Path) -> AbstractContextManager[Any]:
        started.append(contestant.flags)
        return nullcontext(SimpleNamespace(url="u", pid=0))

    monkeypatch.setattr("bench.protocols.registry.find_spec", lambda name: None if name == "grpc" else name)
    monkeypatch.setattr(NamedOnly, "serving", serving)
    monkeypatch.setattr(protocols, "measure", lambda load: {name: [figures] * load.turns for name in load.protocols})
    monkeypatch.setattr(protocols, "addresses", lambda server: "")
    monkeypatch.setattr(protocols, "compare", lambda at, ask, names: None)
    report = protocols.run(setup)
    assert {row["protocol"] for row in report["rows"]} == {*PROTOCOLS} - {"open-inference-grpc"}
    assert started == [("--zmq-port", "0")] * 3
    cli.print_report({"machine": "m", "rounds": 3, "servers": {}, "skipped": {}, "sections": {"protocols": report}})
    assert "left out: open-inference-grpc needs grpcio" in capsys.readouterr().out


def test_protocols_must_agree_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    actions = {name: [0.1, 0.2] for name in PROTOCOLS}

    async def ask_once(name: Any, at: Any, ask: Any) -> Reply:
        status = 500 if actions[name] is None else 200
        return Reply(status, frozenset(), {"action": actions[name]} if status == 200 else {})

    monkeypatch.setattr(protocols, "ask_once", ask_once)
    at, ask = ServerAddress("u"), Ask("m", np.zeros(2, np.float32), 1, 1, 0)
    protocols.compare(at, ask, tuple(PROTOCOLS))
    for wrong in ([0.1, np.nextafter(0.2, 1)], [0.1], None):
        for name in ("groot", "open-inference-grpc"):
            monkeypatch.setitem(actions, name, wrong)
            with pytest.raises(WrongAnswer, match=f"{name}: expected"):
                protocols.compare(at, ask, tuple(PROTOCOLS))
            monkeypatch.setitem(actions, name, actions["http-json"])


def test_protocols_need_one_of_our_servers(setup: Setup) -> None:
    peers = replace(setup, contestants=[contestant for contestant in setup.contestants if not contestant.ours])
    with pytest.raises(ValueError, match="peers have POST /act only"):
        protocols.run(peers)


# The command


def test_protocols_alone_need_neither_wrk_nor_peers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[str] = []

    def run(setup: Setup) -> dict[str, Any]:
        found.extend(contestant.name for contestant in setup.contestants)
        return {"rows": []}

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(cli, "RUN", {"protocols": run})
    assert cli.main(["--sections", "protocols"]) == 0
    assert found == [*OURS]
    assert "skipped" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": 0.0}, "seconds must be positive"),
        ({"connections": (0,)}, "connections"),
        ({"threads": -1}, "threads"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServeBenchConfig(**changes)


def test_the_other_sections_run_if_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(setup: Setup) -> dict[str, Any]:
        raise GeneratorTooSlow("the lag was too large")

    sections: dict[str, Callable[[Setup], dict[str, Any]]] = {
        "peak": lambda setup: {"rows": [{"server": "ours", "requests/s": 1234.0}]},
        "overload": fails,
    }
    monkeypatch.setattr(cli, "RUN", sections)
    monkeypatch.setattr(wrk, "require_wrk", lambda: None)
    absent = shutil.which("false") or "/bin/false"
    path = tmp_path / "serve.json"
    arguments = ["--sections", "peak", "overload", "--peer-python", absent, "--json", str(path)]
    assert cli.main(arguments) == 1
    shown = capsys.readouterr().out
    assert "1234" in shown
    assert "overload: the lag was too large" in shown
    assert "mosec: skipped: mosec is not installed" in shown
    report = json.loads(path.read_text())
    assert set(report["skipped"]) == set(PEERS)
    assert set(report["servers"]) == set(OURS)
    assert report["sections"]["overload"] == {"rows": [], "failed": "the lag was too large"}
    assert cli.main([*arguments[:2], *arguments[3:]]) == 0


def test_without_wrk_the_error_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt-get install wrk"):
        cli.main([])


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")
def test_wrk_counts_replies_and_failures(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"observation": [0.0]}')

    async def run() -> tuple[dict[str, float], list[bytes]]:
        bodies: list[bytes] = []

        async def answering(request: Request) -> bytes:
            bodies.append(request.body)
            return reply({"action": [0.0]}, 503 if request.number % 2 else 200)

        async with planted_server(answering) as url:
            return await asyncio.to_thread(wrk.load, url, body, 2, 1), bodies

    figures, bodies = asyncio.run(run())
    assert set(bodies) == {b'{"observation": [0.0]}'}
    assert figures["failed"] == pytest.approx(figures["requests"] / 2, abs=2)
    assert 0 <= len(bodies) - figures["requests"] <= 2
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
