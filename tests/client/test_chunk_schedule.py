"""`ControlLoop` with chunks, on a clock of its own: 10 Hz, and a step waits 80 ms at most.

The server's chunk for the observation [t] has the actions [t, t], [t + 1, t], ...: each names the tick it is planned
for, and the one that it observed.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sorl_client import Action, Ask, ControlLoop, DeadlineExceeded, InvalidArgument, InvalidReply, Overloaded
from sorl_client.asker import Came

from tests.client.conftest import FakeClock, reply_to
from tests.client.test_control_loop import SimulatedAsker as OneActionAsker

PERIOD_S, LIMIT_S = 0.1, 0.08
OVERLOADED = (0.03, Overloaded("full"))


class Server:
    def __init__(self, horizon, **changes):
        self.horizon = horizon
        self.entry = {"name": "stub", "action_dim": 2, "control_hz": 10.0, "action_horizon": horizon} | changes
        self.asked = []
        self.deadlines_ms = []
        self.committed = []
        self.before_replying = lambda: None

    def models(self):
        return [self.entry]

    def act(self, observation, *, deadline_ms, committed, coherence, **fields):
        self.before_replying()
        observed = int(observation[0])
        self.committed.append(None if committed is None else (committed.tolist(), coherence))
        self.asked.append(observed)
        self.deadlines_ms.append(deadline_ms)
        chunk = [[observed + i, observed] for i in range(self.horizon)]
        chunk = chunk[0] if self.horizon == 1 else chunk
        reply = reply_to({"request_id": "r"}, chunk) | {"action_horizon": self.horizon, "control_hz": 10.0}
        return Action.from_reply(reply, latency_ms=1.0, attempts=1)


class SimulatedAsker(OneActionAsker):
    """Asks for a chunk, at once; it comes after the tick's take. `came_at` has when, by the tick observed."""

    def __init__(self, clock, takes):
        super().__init__(clock, takes)
        self.came_at = {}

    def ask(self, number, question):
        reply, take = question(), self.takes[number]
        seconds, outcome = take if isinstance(take, tuple) else (take, reply)
        if seconds is not None:
            came = Came(number, outcome, self.clock(), self.clock() + seconds)
            self.under_way.append(came)
            if outcome is reply:
                self.came_at[number] = came.at


def simulated(takes, horizon=4, ask=None, **options):
    clock, server = FakeClock(), Server(horizon)
    asker = SimulatedAsker(clock, takes)
    return ControlLoop(server, ask, clock=clock, sleep=clock.sleep, asker=asker, **options), server, asker, clock


def run(takes, **options):
    loop, server, _, _ = simulated(takes, **options)
    ticks = []
    for number in range(len(takes)):
        ticks.append(loop.step([float(number)]))
        loop.wait()
    return ticks, loop, server


def places(ticks):
    """(chunk, index) of each tick."""
    return [(tick.chunk, tick.index) for tick in ticks]


def test_the_next_chunk_comes_while_the_current_one_runs():
    ticks, _, server = run([0.01] * 8)
    assert places(ticks) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1)]
    assert server.asked == [0, 3, 6]
    assert [tick.action[0] for tick in ticks] == list(range(8))
    assert {tick.source for tick in ticks} == {"fresh"}
    assert [tick.latency_ms for tick in ticks] == pytest.approx([10] + [0] * 7)  # only the first chunk is waited for
    assert ticks[4].reply.action.tolist() == [[3, 3], [4, 3], [5, 3], [6, 3]]


def test_the_server_is_told_what_is_executed_meanwhile():
    """Actions name the tick that they are planned for and the one that they observed: [tick, observed]."""
    ticks, _, server = run([0.25] * 15, horizon=8, ask=Ask(coherence=0.75))
    assert server.asked == [0, 5, 10]
    first, second, third = server.committed
    assert first is None
    assert second == ([[5, 0], [6, 0], [7, 0]], 0.75)
    assert third == ([[10, 5], [11, 5], [12, 5]], 0.75)
    for committed, at in ((second, 5), (third, 10)):
        assert [tick.action.tolist() for tick in ticks[at : at + 3]] == committed[0]


def test_a_chunk_that_is_early_is_entered_after_what_was_committed():
    takes = [0.01] * 10
    ticks, _, server = run(takes, execute=3, ahead=2, horizon=6)
    assert server.committed[:2] == [None, ([[1, 0], [2, 0]], None)]
    assert places(ticks) == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (2, 4), (3, 2)]
    free, _, untold = run(takes, execute=3, ahead=2, horizon=6, commit=False)
    assert set(untold.committed) == {None}
    assert places(free)[:3] == [(0, 0), (0, 1), (1, 1)]


def test_of_a_chunk_at_least_one_action_is_not_committed():
    _, _, server = run([0.01] * 6, horizon=2, ahead=1)
    assert [committed and len(committed[0]) for committed in server.committed] == [None] + [1] * 5
    _, _, single = run([0.01] * 4, horizon=1)
    assert single.committed == [None] * 4


def test_so_many_actions_of_a_chunk_are_executed():
    ticks, _, server = run([0.01] * 8, execute=2)
    assert places(ticks) == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert server.asked == [0, 1, 3, 5, 7]


def test_asked_no_tick_ahead_a_chunk_is_waited_for():
    ticks, _, server = run([0.01] * 6, execute=2, ahead=0)
    assert places(ticks) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert server.asked == [0, 2, 4]
    assert [tick.latency_ms for tick in ticks] == pytest.approx([10, 0] * 3)


def test_a_chunk_that_is_late_finds_the_current_one_running_on():
    ticks, loop, server = run([0.01, 0.25, 0.01, 0.01, 0.01, 0.01], execute=2, ahead=1)
    assert places(ticks) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (2, 1)]
    assert server.asked[:3] == [0, 1, 4]
    assert loop.statistics().misses == 0


def test_chunks_are_asked_for_as_early_as_replies_are_slow():
    """Replies that take 2.5 ticks are asked for three ahead, once that was seen."""
    ticks, loop, server = run([0.25] * 15, horizon=8)
    assert server.asked == [0, 5, 10]
    assert [tick.chunk for tick in ticks] == [None, None, *[0] * 6, *[1] * 5, *[2] * 2]
    assert [tick.index for tick in ticks] == [None, None, 2, 3, 4, 5, 6, 7, 3, 4, 5, 6, 7, 3, 4]
    assert loop.statistics().misses == 2


def test_a_chunk_after_all_its_ticks_is_a_miss_and_reported_late():
    ticks, loop, server = run([0.45, None, None, None, 0.01, 0.01], ahead=1)
    assert [tick.source for tick in ticks] == ["held"] * 4 + ["fresh"] * 2
    assert places(ticks)[4:] == [(1, 0), (1, 1)]
    assert server.asked == [0, 4]
    assert [[late.tick for late in tick.late] for tick in ticks] == [[]] * 5 + [[0]]
    assert [late.latency_ms for late in ticks[5].late] == [pytest.approx(450.0)]
    statistics = loop.statistics()
    assert (statistics.misses, statistics.late) == (4, 1)
    assert (statistics.chunks.chunks, statistics.chunks.misses) == (1, 1)
    assert all(isinstance(tick.error, DeadlineExceeded) for tick in ticks[:4])


def test_after_an_error_the_next_tick_asks_again():
    ticks, loop, server = run([0.01, 0.01, OVERLOADED, 0.01, 0.01], execute=3)
    assert places(ticks) == [(0, 0), (0, 1), (0, 2), (0, 3), (2, 1)]
    assert server.asked == [0, 2, 3]
    assert (loop.statistics().chunks.misses, loop.statistics().misses) == (1, 0)
    (tick,) = run([OVERLOADED])[0]
    assert (tick.source, tick.error, tick.latency_ms) == ("held", OVERLOADED[1], pytest.approx(30.0))


def test_seams_are_compared_with_what_is_within():
    """Of planned actions [tick, observed]: within a chunk 1 apart, at seams (1, observed - observed)."""
    _, loop, _ = run([0.01] * 8)  # observed 0, 3, 6
    chunks = loop.statistics().chunks
    assert (chunks.chunks, chunks.misses) == (3, 0)
    assert chunks.within == pytest.approx(1.0)
    assert chunks.seam == pytest.approx(np.hypot(1.0, 3.0))
    empty = simulated([])[0].statistics().chunks
    assert (empty.chunks, empty.misses, empty.seam, empty.within) == (0, 0, None, None)


def test_a_stop_and_a_reset_forget_what_is_planned():
    loop, server, _, _ = simulated([0.3, 0.01, 0.01, 0.01], on_miss="stop")
    assert [loop.step([float(number)]).source for number in range(2)] == ["stopped"] * 2
    assert loop.statistics().chunks.misses == 1
    loop.reset()
    assert places([loop.step([2.0])]) == [(1, 0)]
    loop.reset()
    tick = loop.step([3.0])
    assert (tick.chunk, tick.index, tick.action.tolist()) == (2, 0, [3, 3])
    assert server.asked == [0, 2, 3]
    assert loop.statistics().chunks.seam is None


def started(takes, latency_s, **options):
    """A loop whose first chunk took `latency_s` to come, and its server and clock."""
    loop, server, _, clock = simulated(takes, **options)
    server.before_replying = lambda: clock.sleep(latency_s)
    loop.start([0.0])
    server.before_replying = lambda: None
    return loop, server, clock


def test_the_tick_after_a_start_executes_the_first_action_however_long_its_reply_took():
    loop, _, clock = started([0.01] * 4, 1.5)
    first = loop.step([0.0])
    assert (first.source, first.chunk, first.index, first.action.tolist()) == ("fresh", 0, 0, [0, 0])
    assert (first.latency_ms, loop.statistics().misses) == (0.0, 0)
    began = clock.now
    loop.wait()
    assert clock.now - began == pytest.approx(PERIOD_S)


def test_after_a_start_the_next_chunk_is_asked_for_as_early_as_the_first_was_slow():
    loop, server, _ = started([0.15] * 4, 0.15)
    ticks = []
    for number in range(4):
        ticks.append(loop.step([float(number)]))
        loop.wait()
    assert places(ticks) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert server.asked == [0, 2]
    assert server.committed == [None, ([[2, 0], [3, 0]], None)]


@given(
    horizon=st.integers(1, 8),
    execute=st.integers(1, 8),
    commit=st.booleans(),
    latency=st.floats(0.01, 0.99),
)
@example(horizon=5, execute=2, commit=True, latency=0.99)
@example(horizon=5, execute=2, commit=False, latency=0.99)
def test_a_started_loop_misses_nothing_while_a_reply_takes_less_than_half_a_chunk(horizon, execute, commit, latency):
    """A question is under way at a time, so what a chunk has left when it comes bridges the time to the next."""
    latency_s = latency * (horizon / 2 * PERIOD_S if horizon > 1 else LIMIT_S)
    loop, _, _ = started([latency_s] * 40, latency_s, horizon=horizon, execute=min(execute, horizon), commit=commit)
    for number in range(40):
        assert loop.step([float(number)]).source == "fresh"
        loop.wait()


def test_a_chunk_that_was_asked_for_before_a_reset_is_not_executed_after_it():
    loop, _, _, _ = simulated([0.25, None, None, None])
    loop.step([0.0])
    loop.wait()
    loop.reset()
    ticks = []
    for number in (1, 2, 3):
        ticks.append(loop.step([float(number)]))
        loop.wait()
    assert [tick.source for tick in ticks] == ["held"] * 3
    assert [[late.tick for late in tick.late] for tick in ticks] == [[], [0], []]


def test_the_error_of_a_miss_is_of_the_question_that_it_waited_for():
    ticks, _, _ = run([OVERLOADED, None])
    assert [type(tick.error) for tick in ticks] == [Overloaded, DeadlineExceeded]


def test_what_is_planned_is_not_the_callers_to_change():
    loop, _, _, _ = simulated([0.01] * 2)
    tick = loop.step([0.0])
    tick.action[:] = 9.0
    tick.reply.action[:] = 9.0
    assert loop.step([1.0]).action.tolist() == [1, 0]


def test_a_reply_is_due_in_time_for_its_last_action():
    _, _, server = run([0.01])
    assert server.deadlines_ms == [pytest.approx(380.0)]


def test_with_a_deadline_of_several_periods_a_step_still_ends_within_its_own():
    ticks, _, server = run([None], ask=Ask(deadline_ms=250.0))
    assert server.deadlines_ms == [pytest.approx(250.0)]
    assert ticks[0].latency_ms == pytest.approx(80.0)
    ticks, _, _ = run([None], ask=Ask(deadline_ms=50.0))
    assert ticks[0].latency_ms == pytest.approx(50.0)


def test_options_that_do_not_fit_the_horizon_are_refused_by_name():
    with pytest.raises(InvalidArgument, match="execute: expected an integer from 1 to 4; found 5"):
        simulated([], execute=5)
    with pytest.raises(InvalidArgument, match="ahead: expected an integer from 0 to 3; found 4"):
        simulated([], ahead=4)
    with pytest.raises(InvalidArgument, match=r"deadline_ms: expected .* at most 4 periods of 100; found 401"):
        simulated([], ask=Ask(deadline_ms=401.0))
    with pytest.raises(InvalidReply, match="model 'stub': action_horizon: expected an integer from 1"):
        ControlLoop(Server(4, action_horizon="4"))


def test_a_chunk_that_comes_when_its_tick_is_over_is_entered_at_the_next():
    """As when the machine was busy: tick 0 waits until its deadline, and wakes 5 ms later, after the reply."""

    class Drowsy(SimulatedAsker):
        def receive(self, number, until):
            return super().receive(number, until + 0.005)

    clock = FakeClock()
    loop = ControlLoop(Server(4), clock=clock, sleep=clock.sleep, asker=Drowsy(clock, [0.083]))
    ticks = [loop.step([0.0]), loop.step([1.0])]
    assert [tick.source for tick in ticks] == ["held", "fresh"]
    assert places(ticks)[1] == (0, 1)


def test_a_chunk_of_another_horizon_is_no_chunk():
    clock, server = FakeClock(), Server(3, action_horizon=4)
    loop = ControlLoop(server, clock=clock, asker=SimulatedAsker(clock, [0.01]))
    tick = loop.step([0.0])
    assert (tick.source, type(tick.error)) == ("held", InvalidReply)
    assert "expected an action of shape (4, 2), got (3, 2)" in str(tick.error)


@st.composite
def plans(draw):
    horizon = draw(st.integers(1, 6))
    execute = draw(st.none() | st.integers(1, horizon))
    ahead = draw(st.none() | st.integers(0, horizon - 1))
    return {"horizon": horizon, "execute": execute, "ahead": ahead}


@given(plan=plans(), takes=st.lists(st.none() | st.floats(0.001, 0.7) | st.just(OVERLOADED), max_size=40))
@example(plan={"horizon": 4, "execute": 2, "ahead": None}, takes=[0.08, 0.2, 0.0801, 0.3] * 5)
@example(plan={"horizon": 5, "execute": None, "ahead": None}, takes=[0.25, None, None, 0.0625, None])  # early
@example(plan={"horizon": 3, "execute": None, "ahead": 2}, takes=[0.0625, 0.0625, 0.0625, None])  # two wait
def test_whatever_comes_every_action_is_in_time_and_at_the_tick_that_it_was_planned_for(plan, takes):
    loop, server, asker, clock = simulated(takes, **plan)
    horizon, executed, before = plan["horizon"], [], 0
    for number in range(len(takes)):
        began = clock.now
        tick = loop.step([float(number)])
        assert clock.now - began <= LIMIT_S + 1e-9
        # The definition: the newest of the chunks that have come, after what the robot was committed to when it was
        # asked for, and still have an action for this tick.
        told = [0 if one is None else len(one[0]) for one in server.committed]
        firsts = {at: at + committed for at, committed in zip(server.asked, told, strict=True)}
        come = [at for at in asker.came_at if asker.came_at[at] <= clock.now]
        there = [at for at in come if firsts[at] <= number < at + horizon]
        assert (tick.source == "fresh") == bool(there)
        if there:
            observed = max(there)
            assert observed >= before
            assert tick.action.tolist() == [number, observed]
            assert tick.index == number - observed
            assert server.asked[tick.chunk] == observed
            before = observed
            executed.append(tick)
        assert np.isfinite(tick.action).all()
        loop.wait()
    statistics = loop.statistics()
    assert statistics.misses == len(takes) - len(executed)
    assert statistics.chunks.chunks == len({tick.chunk for tick in executed})
    assert statistics.chunks.chunks + statistics.chunks.misses <= len(server.asked)
    jumps = {True: [], False: []}
    for old, new in pairwise(executed):
        jumps[old.chunk == new.chunk].append(float(np.linalg.norm(new.action - old.action)))
    for found, norms in ((statistics.chunks.within, jumps[True]), (statistics.chunks.seam, jumps[False])):
        assert found == (pytest.approx(np.mean(norms)) if norms else None)
