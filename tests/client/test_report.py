import numpy as np
from sorl_client import report
from sorl_client.control import Episode


def episode(number, success, misses=0, wiggle=0.0):
    """Ten ticks of 1 to 10 ms; every second action is `wiggle`, so second differences have norm 2 * wiggle."""
    actions = np.zeros((10, 1), np.float32)
    actions[1::2] = wiggle
    return Episode(
        episode=number,
        success=success,
        steps=10,
        latencies_ms=[float(ms) for ms in range(1, 11)],
        limit_ms=50.0,
        misses=misses,
        holds=0,
        degraded=1,
        actions=actions,
        engine="cpu/f32/stub",
        model_version="v",
    )


STEP = [episode(0, True, 1, wiggle=1.0), episode(1, False), episode(2, True)]
EPISODE = [episode(0, True), episode(1, True), episode(2, True)]


def test_the_summary_has_the_statistics():
    summary = report.summarise("step", STEP, hz=20.0)
    assert summary.text().splitlines() == [
        "success   2/3 = 67 % (21 to 94)",
        "latency   p50 5.0, p95 10.0, p99 10.0, max 10.0 ms over 30 ticks",
        "misses    1/30 = 3.3 % of 50 ms; held 0, degraded 3",
        # 2 * 1 * 20^2 in one episode of three
        "jerk      266.7 action units/s^2 (mean norm of the second difference of actions x rate^2)",
    ]


def test_a_row_fits_its_header():
    assert report.HEADER.split() == ["episode", "success", "steps", "p50", "ms", "p99", "ms", "misses", "jerk"]
    assert report.row(STEP[0], 20.0).split() == ["0", "yes", "10", "5.00", "10.00", "1", "800"]
    assert report.row(STEP[1], 20.0).split() == ["1", "no", "10", "5.00", "10.00", "0", "0"]


def test_both_policies_stand_side_by_side():
    lines = [line.split("  ") for line in report.side_by_side(STEP, EPISODE, 20.0).splitlines()]
    cells = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    assert cells["success"] == ["2/3 = 67 % (21 to 94)", "3/3 = 100 % (44 to 100)"]
    assert cells["solved by this alone"] == ["0", "1"]
    assert cells["jerk, action units/s^2"] == ["266.7", "0"]
    assert cells["misses"] == ["1/30 = 3.3 %", "0/30 = 0.0 %"]


def test_equal_actions_have_equal_digests():
    digests = [report.as_json(x, 20.0)["actions_sha256"] for x in (STEP[1], STEP[2], STEP[0])]
    assert digests[0] == digests[1] != digests[2]
