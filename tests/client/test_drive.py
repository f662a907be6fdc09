import gc
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sorl_client.drive import main
from sorl_client.drive_options import parser

from tests.client.conftest import array
from tests.client.conftest import reply_to as reply

MAZE = "pointmaze-medium-navigate-singletask-task1-v0"


class Robot:
    """An environment that observes its number of steps. It succeeds after five steps, except for odd seeds."""

    dt = 0.1
    observation_space = SimpleNamespace(shape=(2,))
    action_space = SimpleNamespace(shape=(2,), seed=lambda seed: None)

    def __init__(self):
        self.unwrapped = self
        self.resets = -1
        self.closed = False

    def reset(self, seed):
        self.resets += 1
        self.moves = 0
        return np.zeros(2), {}

    def step(self, action):
        self.moves += 1
        done = self.moves == 5
        return np.full(2, self.moves), 0.0, done, False, {"success": done and self.resets % 2 == 0}

    def close(self):
        self.closed = True


@pytest.fixture
def robot():
    return Robot()


@pytest.fixture
def drive(robot, capsys):
    """Runs the command with the stub environment; returns its exit status, stdout and stderr."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments], make_env=lambda task: robot)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def zigzag(fake_server, reply_to):
    """Answers (0, 0) and (1, 0) in turn: second differences of norm 2, so a jerk of 2 * 10^2."""
    server = fake_server()

    def answer(fields):
        moves = np.frombuffer(fields["observation"][b"data"], "<f4")[0]
        return 200, reply_to(fields, [float(moves % 2), 0.0])

    server.answer = answer
    return server


def test_results_are_printed_and_written(zigzag, drive, robot, tmp_path):
    file = tmp_path / "drive.json"
    status, out, err = drive(zigzag.url, "--no-realtime", "--episodes", 3, "--seed", 4, "--json", file)
    assert (status, err, robot.closed) == (0, "", True)
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["4"], ["5"], ["6"])]
    assert [row[:3] for row in rows] == [["4", "yes", "5"], ["5", "no", "5"], ["6", "yes", "5"]]
    assert [row[-1] for row in rows] == ["200"] * 3
    assert "success   2/3 = 67 % (21 to 94)" in out
    assert "over 15 ticks" in out
    assert "jerk      200 action units/s^2" in out

    written = json.loads(file.read_text())
    assert (written["model"], written["model_version"], written["engine"]) == ("stub", "ab" * 32, "cpu/f32/stub")
    assert (written["control_hz"], written["first_episode"]) == (10.0, 4)
    (summary,) = written["drives"]
    assert (summary["successes"], summary["episodes"], summary["steps"]) == (2, 3, 15)
    assert summary["jerk"] == pytest.approx(200.0)
    assert [x["episode"] for x in summary["per_episode"]] == [4, 5, 6]
    assert f"p50 {summary['latency_p50_ms']:.1f}, p95 {summary['latency_p95_ms']:.1f}" in out
    assert f"max {max(x['latency_max_ms'] for x in summary['per_episode']):.1f} ms" in out
    assert zigzag.connections == 1


def test_flags_reach_the_server(zigzag, drive):
    flags = [
        "--num-candidates",
        8,
        "--num-steps",
        3,
        "--deadline-ms",
        5000,
        "--on-late",
        "reject",
        "--min-quality",
        0.9,
        "--temperature",
        0.5,
    ]
    drive(zigzag.url, "--no-realtime", "--episodes", 1, *flags)
    assert len(zigzag.requests) == 5
    sent = zigzag.requests[0]
    assert (sent["num_candidates"], sent["num_steps"], sent["on_late"], sent["temperature"]) == (8, 3, "reject", 0.5)
    assert sent["min_quality"] == 0.9
    assert 4000 < sent["deadline_ms"] <= 4999
    assert sent["model"] == "stub"


def test_a_tick_with_deadline_exceeded_holds_and_is_counted(fake_server, reply_to, drive, tmp_path):
    server = fake_server()

    def answer(fields):
        if len(server.requests) == 2:
            return 504, {"code": "deadline_exceeded", "detail": "passed in the queue"}
        return 200, reply_to(fields, [1.0, 1.0])

    server.answer = answer
    file = tmp_path / "drive.json"
    status, out, _ = drive(server.url, "--no-realtime", "--episodes", 1, "--deadline-ms", 60_000, "--json", file)
    assert status == 0
    assert "misses    1/5 = 20.0 % of 60000 ms; held 1, degraded 0" in out
    # (1, 0, 1, 1, 1): norms sqrt(2) * (2, 1, 0), mean sqrt(2), times 10^2
    assert json.loads(file.read_text())["drives"][0]["jerk"] == pytest.approx(100 * 2**0.5)


def test_both_seed_policies_drive_the_same_episodes(fake_server, drive):
    server = fake_server()
    status, out, _ = drive(server.url, "--no-realtime", "--episodes", 2, "--compare-seed-policies")
    assert status == 0
    seeds = [fields["seed"] for fields in server.requests]
    first = 2**20
    assert seeds[:10] == [*range(5), *range(first, first + 5)]
    assert seeds[10:] == [0] * 5 + [first] * 5
    lines = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    assert lines["success"].count("1/2 = 50 %") == 2
    assert "solved by this alone" in lines


@pytest.fixture
def fast(robot):
    """The robot at 100 Hz: its ticks are waited for."""
    robot.dt = 0.01
    return robot


def test_chunks_are_driven_by_a_control_loop(fake_server, fast, drive, tmp_path):
    """A chunk's actions are (tick planned for, tick observed); the robot observes its number of steps."""
    server, file = fake_server(action_horizon=4, control_hz=100.0), tmp_path / "drive.json"

    def answer(fields):
        observed = float(np.frombuffer(fields["observation"][b"data"], "<f4")[0])
        chunk = [[observed + index, observed] for index in range(4)]
        return 200, reply(fields, array(chunk)) | {"action_horizon": 4, "control_hz": 100.0}

    server.answer = answer
    flags = ["--execute", 3, "--ahead", 1, "--coherence", 0.5, "--deadline-ms", 40, "--json", file]
    status, _, err = drive(server.url, "--episodes", 1, *flags)
    assert (status, err) == (0, "")
    assert [fields["seed"] for fields in server.requests] == sorted(fields["seed"] for fields in server.requests)
    committed = [fields.get("committed") for fields in server.requests]
    assert committed[0] is None  # what the robot waits for, before its first tick
    # On a busy machine a chunk may run out before the next one comes; then there is nothing to commit to.
    assert {tuple(one[b"shape"]) for one in committed[1:] if one is not None} == {(1, 2)}
    assert {fields.get("coherence") for fields in server.requests if "committed" in fields} == {0.5}
    written = json.loads(file.read_text())
    assert (written["execute"], written["commit"], written["latency_ms"]) == (3, True, None)
    chunks = written["drives"][0]["per_episode"][0]["chunks"]
    assert set(chunks) == {"chunks", "misses", "seam", "within"}
    (summary,) = written["drives"]
    assert summary["start_p50_ms"] == summary["start_max_ms"] == summary["per_episode"][0]["start_ms"] > 0.0


def test_single_actions_that_are_not_waited_for_miss_behind_a_slow_network(fake_server, fast, drive):
    """A period of 10 ms, and a round trip of 60: only the action that the robot starts with is fresh."""
    server = fake_server(control_hz=100.0)
    status, out, _ = drive(server.url, "--episodes", 1, "--execute", 1, "--latency-ms", 60)
    assert status == 0
    assert "misses    4/5 = 80.0 %" in out
    assert "held 4, degraded 0" in out
    assert "ms to an episode's first reply" in out


def test_garbage_collection_leaves_out_what_was_loaded_before_the_first_episode(zigzag, drive, robot):
    frozen, step = [], robot.step

    def counting(action):
        frozen.append(gc.get_freeze_count())
        return step(action)

    robot.step = counting
    before = gc.get_freeze_count()
    drive(zigzag.url, "--episodes", 1, "--no-realtime")
    assert min(frozen) > before + 10_000  # modules and the environment
    assert gc.get_freeze_count() == 0


def test_chunks_are_driven_in_real_time_only(fake_server, drive):
    server = fake_server(action_horizon=4)
    status, _, complaint = drive(server.url, "--episodes", 1, "--no-realtime")
    assert status == 2
    assert "answers with chunks, in real time: leave out --no-realtime" in complaint


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--execute", 2], "--execute: expected an integer from 1 to 1; found 2"),
        (["--execute", 1, "--ahead", 1], "--ahead: expected an integer from 0 to 0; found 1"),
        (["--ahead", 0], "--ahead: add --execute"),
        (["--execute", 1, "--no-realtime"], "--execute drives in real time: leave out --no-realtime"),
    ],
)
def test_loops_that_are_refused(fake_server, drive, flags, complaint):
    status, _, err = drive(fake_server().url, "--episodes", 1, *flags)
    assert (status, err) == (2, f"sorl-drive: {complaint}\n")


def test_too_few_successes_are_an_exit_status(zigzag, drive):
    assert drive(zigzag.url, "--no-realtime", "--episodes", 3, "--require-successes", 2)[0] == 0
    status, _, err = drive(zigzag.url, "--no-realtime", "--episodes", 1, "--require-successes", 2)
    assert status == 1
    assert err.splitlines() == ["sorl-drive: 0 successes, 2 required"]  # the robot's fourth reset: a miss


@pytest.mark.parametrize(
    ("model", "flags", "complaint"),
    [
        ({"obs_dim": 28}, [], "model 'stub' has obs_dim 28, but task"),
        ({"action_dim": 5}, [], "model 'stub' has action_dim 5, but task"),
        ({}, ["--model", "other"], "no model 'other' here; served: stub"),
    ],
)
def test_a_model_that_does_not_fit_the_task_is_an_error(fake_server, drive, model, flags, complaint):
    server = fake_server(**model)
    status, _, err = drive(server.url, *flags)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert complaint in err
    assert server.requests == []


def test_of_several_models_the_default_is_driven(zigzag, drive):
    zigzag.others = [{"name": "other", "obs_dim": 28, "action_dim": 5}]
    assert "choose one of several models with --model: stub, other" in drive(zigzag.url)[2]
    zigzag.model["default"] = True
    zigzag.others[0]["default"] = False
    status, out, _ = drive(zigzag.url, "--no-realtime", "--episodes", 1)
    assert (status, zigzag.requests[0]["model"]) == (0, "stub")
    assert "model stub at" in out
    assert "model 'other' has obs_dim 28" in drive(zigzag.url, "--model", "other")[2]


def test_servers_that_cannot_serve_have_different_errors(fake_server, drive):
    server = fake_server()
    server.ready = lambda: (503, {"code": "not_ready", "detail": "warming up"})
    assert "not_ready (HTTP 503)" in drive(server.url)[2]
    server.ready = lambda: (200, {})
    server.answer = lambda fields: (500, {"code": "engine_failed", "detail": "it broke"})
    assert drive(server.url)[2] == "sorl-drive: engine_failed (HTTP 500): it broke\n"


def test_an_unreachable_server_is_one_line(fake_server, drive):
    server = fake_server()
    url = server.url
    server.shutdown()
    server.server_close()
    status, _, err = drive(url)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert url in err
    assert drive("localhost:8000")[2].startswith("sorl-drive: need a URL such as")


def test_a_missing_simulator_and_an_unknown_task_are_one_line(fake_server, capsys):
    url = fake_server().url

    def no_ogbench(task):
        raise ModuleNotFoundError("No module named 'ogbench'")

    assert main([url], make_env=no_ogbench) == 2
    assert "pip install 'sorl-client[drive]'" in capsys.readouterr().err
    assert main([url, "--task", "no-such-task-v0"]) == 2
    assert "cannot make the environment of task 'no-such-task-v0'" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--episodes", "0"], ["--deadline-ms", "-1"], ["--seed-policy", "tick"]])
def test_invalid_flags_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "values", "expected"),
    [
        ("--episodes", ["0", "1.5", "ten", "nan"], "expected an integer from 1 to 2^53"),
        ("--seed", ["-1", str(2**33)], "expected an integer from 0 to 2^33 - 1"),
        ("--num-candidates", ["0", "8.5", "True", "nan", "inf"], "expected an integer from 1 to 2^53"),
        ("--num-steps", ["0", "9" * 30, "9" * 5000], "expected an integer from 1 to 2^53"),
        (
            "--deadline-ms",
            ["0", "-1", "nan", "inf", "3600001", "x"],
            "expected a finite number above 1, at most 3600000 (milliseconds)",
        ),
        ("--deadline-ms", ["0.05", "1"], "expected a finite number above 1, at most 3600000 (milliseconds)"),
        ("--latency-ms", ["0", "0.05", "nan", "x"], "expected a number from 1 to 3600000 (milliseconds)"),
        ("--temperature", ["nan", "inf", "-1", "2.1", "x"], "expected a number from 0 to 2"),
        ("--max-steps", ["0"], "expected an integer from 1 to 2^53"),
        ("--wait-s", ["nan", "inf", "-1", "0", "1e300"], "expected a finite number above 0, at most 2147483"),
        ("--require-successes", ["-1", "0.5"], "expected an integer from 0 to 2^53"),
    ],
)
def test_every_number_of_the_command_has_a_range(flag, values, expected, capsys):
    for value in values:
        with pytest.raises(SystemExit) as caught:
            main([f"{flag}={value}"])
        assert caught.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"sorl-drive: error: argument {flag}: {expected}; found '{value[:20]}")
        assert len(last) < 250


def test_a_whole_number_may_be_written_as_a_float():
    read = parser().parse_args(["--num-candidates", "8.0", "--num-steps=4", "--seed", "1e3", "--ahead=0.0"])
    assert (read.num_candidates, read.num_steps, read.seed, read.ahead) == (8, 4, 1000, 0)
    assert type(read.num_candidates) is int


def test_every_option_that_is_a_number_has_a_check():
    numbers = {
        "episodes", "seed", "num_candidates", "num_steps", "deadline_ms", "temperature", "max_steps", "wait_s",
        "require_successes", "execute", "ahead", "coherence", "latency_ms", "min_quality",
    }  # fmt: skip
    actions = parser()._actions
    assert {action.dest for action in actions if action.type not in (None, Path)} == numbers
    assert not [action.dest for action in actions if action.type in (int, float)]


def test_more_episodes_than_there_are_seeds_are_one_line(zigzag, drive):
    status, _, err = drive(zigzag.url, "--seed", 2**33 - 1, "--episodes", 2)
    assert (status, err) == (2, "sorl-drive: invalid_argument: episodes: expected an integer from 0 to 1; found 2\n")
    assert zigzag.requests == []


def test_an_interrupted_drive_prints_so(zigzag, robot, drive):
    def interrupted(action):
        raise KeyboardInterrupt

    robot.step = interrupted
    assert drive(zigzag.url, "--no-realtime")[::2] == (130, "sorl-drive: interrupted\n")
    assert robot.closed


def test_a_drive_in_ogbench_repeats_bit_for_bit(fake_server, capsys, tmp_path):
    server = fake_server()
    runs = []
    for name in ("one.json", "two.json"):
        server.requests.clear()
        flags = ["--episodes", "2", "--max-steps", "20", "--no-realtime", "--json", str(tmp_path / name)]
        assert main([server.url, "--task", MAZE, *flags]) == 0
        drives = json.loads((tmp_path / name).read_text())["drives"]
        asked = [(fields["observation"][b"data"], fields["seed"]) for fields in server.requests]
        runs.append((asked, [episode["actions_sha256"] for episode in drives[0]["per_episode"]]))
    assert runs[0] == runs[1]
    assert len(runs[0][0]) == 40
    assert len(set(runs[0][1])) == 2
    assert f"{MAZE} at 10 Hz, model stub at {server.url}, as fast as it answers" in capsys.readouterr().out
