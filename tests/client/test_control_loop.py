import gc
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sorl_client import (
    Action,
    Ask,
    CircuitOpen,
    Client,
    ConnectionFailed,
    ControlLoop,
    DeadlineExceeded,
    InvalidArgument,
    InvalidReply,
    Overloaded,
    RequestRefused,
)
from sorl_client.asker import Came

from tests.client.conftest import FakeClock, reply_to
from tests.client.network import silent

STUB = {"name": "stub", "action_dim": 2, "control_hz": 10.0}
UNHURRIED = STUB | {"control_hz": 0.1}  # a busy machine's thread answers within 8 s
WAIT_S = 30.0  # for what must happen; no test takes it


def action(*values):
    return Action.from_reply(reply_to({"request_id": "r"}, list(values)), latency_ms=1.0, attempts=1)


class Server:
    """Has one model, and answers the n-th question with (1, n)."""

    def __init__(self, *models):
        self.entries = list(models) or [STUB]
        self.asked = []

    def models(self):
        return self.entries

    def act(self, observation, **fields):
        parts = isinstance(observation, dict)
        plain = {name: part.tolist() for name, part in observation.items()} if parts else observation.tolist()
        self.asked.append((plain, fields))
        return action(1, len(self.asked))


class SimulatedAsker:
    """Its answer to the n-th question takes the n-th of `takes`, in seconds; None never comes, an error is one."""

    def __init__(self, clock, takes):
        self.clock = clock
        self.takes = takes
        self.under_way = []
        self.closed = False

    def ask(self, number, question):
        take = self.takes[number]
        if take is None:
            return
        seconds, error = take if isinstance(take, tuple) else (take, None)
        came = Came(number, error or action(1, number), self.clock(), self.clock() + seconds)
        self.under_way.append(came)

    def receive(self, number, until):
        own = [came.at for came in self.under_way if came.number == number]
        if number >= 0:
            self.clock.now = max(self.clock.now, min([until, *own]))
        came = sorted((one for one in self.under_way if one.at <= self.clock.now), key=lambda one: one.at)
        self.under_way = [one for one in self.under_way if one.at > self.clock.now]
        return came

    def close(self):
        self.closed = True


def simulated(takes, **options):
    """A 10 Hz loop with a deadline of 80 ms, whose answers take `takes`; and its clock."""
    clock = FakeClock()
    asker = SimulatedAsker(clock, takes)
    return ControlLoop(Server(), clock=clock, sleep=clock.sleep, asker=asker, **options), clock


def run(takes, **options):
    loop, _ = simulated(takes, **options)
    ticks = []
    for _ in takes:
        ticks.append(loop.step([0.0]))
        loop.wait()
    return ticks, loop


def summary(ticks):
    return [(tick.source, tick.action.tolist()) for tick in ticks]


def test_hold_repeats_the_last_action():
    ticks, _ = run([0.01, None, 0.081, 0.05], on_miss="hold")
    assert summary(ticks) == [("fresh", [1, 0]), ("held", [1, 0]), ("held", [1, 0]), ("fresh", [1, 3])]
    assert [tick.number for tick in ticks] == [0, 1, 2, 3]
    assert [tick.misses for tick in ticks] == [0, 1, 2, 0]
    assert [tick.latency_ms for tick in ticks] == pytest.approx([10, 80, 80, 50])
    assert [tick.reply is not None for tick in ticks] == [True, False, False, True]
    assert [type(tick.error) for tick in ticks] == [type(None), DeadlineExceeded, DeadlineExceeded, type(None)]
    assert "no reply within the tick's 80 ms" in str(ticks[1].error)


def test_hold_does_the_initial_action_until_there_is_another():
    assert summary(run([None, 0.01])[0]) == [("held", [0, 0]), ("fresh", [1, 1])]
    assert summary(run([None, 0.01], initial=[0.5, -0.5])[0]) == [("held", [0.5, -0.5]), ("fresh", [1, 1])]


def test_stop_stops_for_good_until_reset():
    loop, _ = simulated([0.01, None, 0.01, 0.01, 0.01], on_miss="stop", initial=[0.5, 0.5])
    ticks = [loop.step([0.0]) for _ in range(4)]
    assert summary(ticks) == [("fresh", [1, 0])] + [("stopped", [0.5, 0.5])] * 3
    assert [type(tick.error) for tick in ticks[1:]] == [DeadlineExceeded, type(None), type(None)]
    assert [tick.misses for tick in ticks] == [0, 1, 2, 3]
    assert ticks[3].latency_ms == 0.0
    loop.reset()
    assert summary([loop.step([0.0])]) == [("fresh", [1, 4])]


def test_reset_forgets_the_last_action():
    loop, _ = simulated([0.01, None], on_miss="hold")
    loop.step([0.0])
    loop.reset()
    assert summary([loop.step([0.0])]) == [("held", [0, 0])]


def test_a_start_waits_for_what_the_first_tick_does():
    loop, clock = simulated([0.01, 0.01])
    answer = loop._client.act

    def act(observation, **fields):
        clock.sleep(0.03)
        return answer(observation, **fields)

    loop._client.act = act
    loop.start([3.0], seed=7)
    assert [(row, fields["seed"]) for row, fields in loop._client.asked] == [([3.0], 7)]
    clock.sleep(5.0)
    first = loop.step([3.0])
    assert (first.source, first.action.tolist(), first.latency_ms) == ("fresh", [1, 1], 0.0)
    assert loop._asker.under_way == []  # nothing else is asked for this tick
    second = loop.step([4.0])
    assert (second.source, second.late) == ("fresh", ())
    assert second.latency_ms == pytest.approx(10.0)


def test_a_start_goes_on_after_a_stop_and_forgets_what_was_planned():
    loop, _ = simulated([None, 0.01, 0.01], on_miss="stop")
    assert loop.step([0.0]).source == "stopped"
    loop.start([0.0])
    assert [loop.step([0.0]).action.tolist() for _ in range(2)] == [[1, 1], [1, 2]]


def failing_start(errors, **options):
    """A loop whose server has an error for each of the first questions; and its clock."""
    loop, clock = simulated([0.01], **options)
    answer, errors = loop._client.act, list(errors)

    def act(observation, **fields):
        if errors:
            raise errors.pop(0)
        return answer(observation, **fields)

    loop._client.act = act
    return loop, clock


@pytest.mark.parametrize("error", [Overloaded("full"), ConnectionFailed("refused"), DeadlineExceeded("late")], ids=repr)
def test_a_start_asks_again_for_what_may_pass(error):
    loop, clock = failing_start([error] * 3)
    loop.start([0.0])
    assert clock.slept == pytest.approx([0.1] * 3)
    assert loop.step([0.0]).source == "fresh"


def test_a_start_raises_in_the_end_what_did_not_pass():
    loop, clock = failing_start([Overloaded("full")] * 99)
    began = clock.now
    with pytest.raises(Overloaded, match="full"):
        loop.start([0.0], timeout_s=2.0)
    assert 2.0 <= clock.now - began < 2.2  # it is asked for once a period of 0.1 s


@pytest.mark.parametrize("error", [RequestRefused("unknown", field="model"), KeyError("bug")], ids=repr)
def test_a_start_raises_at_once_what_stays(error):
    loop, clock = failing_start([error])
    with pytest.raises(type(error)):
        loop.start([0.0])
    assert clock.slept == []


def test_a_start_refuses_an_action_of_another_width():
    loop, _ = simulated([0.01])
    loop._client.act = lambda observation, **fields: action(1, 2, 3)
    with pytest.raises(InvalidReply, match=r"expected an action of shape \(2,\), got \(3,\)"):
        loop.start([0.0], timeout_s=0.05)


@pytest.mark.parametrize(("ask", "deadline_ms"), [(Ask(), 4_000), (Ask(deadline_ms=60), 60)])
def test_a_start_leaves_the_server_its_deadline_or_all_the_time_there_is(ask, deadline_ms):
    loop, _ = simulated([0.01], ask=ask)
    loop.start([0.0], timeout_s=4.0)
    ((_, fields),) = loop._client.asked
    assert fields["deadline_ms"] == pytest.approx(deadline_ms)


def test_a_start_opens_the_connection_before_its_reply_is_timed(fake_server):
    server = fake_server(control_hz=0.1)
    with Client(server.url) as client, ControlLoop(client, hz=0.1, action_horizon=1, initial=[0.0, 0.0]) as loop:
        loop.start([0.0, 0.0])
        assert loop.step([0.0, 0.0]).source == "fresh"
    assert (server.paths, server.connections) == (["/models", "/act"], 1)


def test_a_fallback_gets_the_observation():
    seen = []

    def fallback(observation):
        seen.append(observation.tolist())
        return [7, 8]

    loop, _ = simulated([0.01, None], on_miss=fallback)
    assert summary([loop.step([3.0, 4.0]), loop.step([5.0, 6.0])]) == [("fresh", [1, 0]), ("fallback", [7, 8])]
    assert seen == [[5.0, 6.0]]


def test_a_fallback_gets_parts_by_name_and_may_change_them():
    asked, changed, seen = threading.Event(), threading.Event(), []

    class Slow(Server):
        def act(self, observation, **fields):
            asked.set()
            assert changed.wait(WAIT_S)
            return super().act(observation, **fields)

    def fallback(observation):
        assert asked.wait(WAIT_S)
        seen.append({name: part.tolist() for name, part in observation.items()})
        observation.pop("gripper")[:] = 9.0
        observation["arm"][:] = 9.0
        changed.set()
        return [7, 8]

    server = Slow(STUB | {"control_hz": 1000.0})
    with ControlLoop(server, on_miss=fallback) as loop:
        ticks = [loop.step({"arm": [1, 2], "gripper": 0.5})]
        while not server.asked:
            ticks.append(loop.step({"arm": [1, 2], "gripper": 0.5}))
    assert summary(ticks[:1]) == [("fallback", [7, 8])]
    assert seen[0] == server.asked[0][0] == {"arm": [1.0, 2.0], "gripper": [0.5]}


@pytest.mark.parametrize("bad", [[1.0], [[1.0, 2.0]], [float("nan"), 0.0], "left", None])
def test_what_a_fallback_does_is_checked(bad):
    loop, _ = simulated([None], on_miss=lambda observation: bad)
    with pytest.raises(InvalidArgument) as caught:
        loop.step([0.0])
    assert caught.value.field == "on_miss"


@pytest.mark.parametrize("error", [Overloaded("full"), ConnectionFailed("cut"), CircuitOpen("open"), InvalidReply("?")])
def test_errors_that_may_pass_are_misses_at_once(error):
    (tick,) = run([(0.02, error)])[0]
    assert (tick.source, tick.error, tick.latency_ms) == ("held", error, pytest.approx(20.0))


@pytest.mark.parametrize("error", [RequestRefused("28 numbers"), ZeroDivisionError()])
def test_errors_that_stay_are_raised(error):
    loop, _ = simulated([(0.02, error)])
    with pytest.raises(type(error)):
        loop.step([0.0])


def test_an_action_of_another_width_is_no_action():
    loop = ControlLoop(Server(UNHURRIED | {"action_dim": 3}))
    with loop:
        tick = loop.step([0.0])
    assert (tick.source, type(tick.error)) == ("held", InvalidReply)


def test_a_late_reply_is_reported_once():
    ticks, loop = run([0.15, 0.01, 0.01])
    assert summary(ticks) == [("held", [0, 0]), ("fresh", [1, 1]), ("fresh", [1, 2])]
    assert [[late.tick for late in tick.late] for tick in ticks] == [[], [], [0]]
    (late,) = ticks[2].late
    assert (late.latency_ms, late.reply.action.tolist()) == (pytest.approx(150.0), [1, 0])
    assert loop.statistics().late == 1


def test_a_reply_after_the_deadline_is_late_though_the_loop_was_late_to_see_it():
    """As when the machine was busy: tick 0 waits until its deadline, and wakes 5 ms later."""

    class Drowsy(SimulatedAsker):
        def receive(self, number, until):
            return super().receive(number, until + 0.005)

    clock = FakeClock()
    loop = ControlLoop(Server(), clock=clock, sleep=clock.sleep, asker=Drowsy(clock, [0.083, 0.079]))
    ticks = [loop.step([0.0]), loop.step([0.0])]
    assert summary(ticks) == [("held", [0, 0]), ("fresh", [1, 1])]
    assert [late.latency_ms for late in ticks[0].late] == [pytest.approx(83.0)]


def test_statistics_count_every_tick():
    _, loop = run([0.01, None, 0.03, 0.2, 0.05])
    statistics = loop.statistics()
    assert (statistics.ticks, statistics.misses) == (5, 2)
    assert statistics.by_source == {"fresh": 3, "held": 2, "fallback": 0, "stopped": 0}
    assert (statistics.latency_p50_ms, statistics.latency_p99_ms) == (pytest.approx(50.0), pytest.approx(80.0))
    empty = ControlLoop(Server()).statistics()
    assert (empty.ticks, empty.misses, empty.latency_p50_ms, empty.latency_p99_ms) == (0, 0, None, None)


def test_ticks_come_at_the_models_rate():
    loop, clock = simulated([0.01, 0.05, None, 0.02])
    times = []
    for _ in range(4):
        times.append(clock.now - 100.0)
        loop.step([0.0])
        if len(times) == 2:
            clock.now += 0.1  # the robot itself was slow
        loop.wait()
    assert times == pytest.approx([0.0, 0.1, 0.25, 0.35])


@given(
    takes=st.lists(st.one_of(st.none(), st.floats(0.001, 0.5), st.just((0.03, Overloaded("full")))), max_size=40),
    on_miss=st.sampled_from(["hold", "stop", lambda observation: [9.0, 9.0]]),
)
@example(takes=[0.08, 0.0801, 0.18, 0.001], on_miss="hold")
def test_whatever_comes_every_tick_has_an_action_in_time_and_none_is_of_another_tick(takes, on_miss):
    loop, clock = simulated(takes, on_miss=on_miss)
    last, stopped, misses, reported = [0.0, 0.0], False, 0, []
    for number, take in enumerate(takes):
        began = clock.now
        tick = loop.step([float(number)])
        assert clock.now - began <= 0.08 + 1e-9
        assert tick.latency_ms == pytest.approx((clock.now - began) * 1e3)
        assert tick.number == number
        in_time = isinstance(take, float) and began + take <= began + 0.08
        if in_time and not stopped:
            assert tick.source == "fresh"
            last, misses = [1.0, float(number)], 0
            assert tick.action.tolist() == last == tick.reply.action.tolist()
        else:
            misses += 1
            stopped = on_miss == "stop"
            source, expected = {
                "hold": ("held", last),
                "stop": ("stopped", [0.0, 0.0]),
            }.get(on_miss, ("fallback", [9.0, 9.0]))
            assert (tick.source, tick.action.tolist(), tick.reply) == (source, expected, None)
        assert tick.misses == misses
        reported += [late.tick for late in tick.late]
        assert all(late.tick < number and late.reply.action.tolist() == [1.0, late.tick] for late in tick.late)
        loop.wait()
    assert len(reported) == len(set(reported)) == loop.statistics().late
    assert all(isinstance(takes[tick], float) and takes[tick] > 0.08 - 1e-9 for tick in reported)
    statistics = loop.statistics()
    assert statistics.ticks == len(takes) == sum(statistics.by_source.values())
    assert statistics.misses == statistics.ticks - statistics.by_source["fresh"]


def test_a_returned_action_may_be_changed():
    loop, _ = simulated([0.01, None, None])
    for _ in range(3):
        tick = loop.step([0.0])
        assert tick.action.tolist() == [1, 0]
        tick.action[:] = 5.0


@pytest.mark.parametrize("spell", [lambda row: row, lambda row: {"arm": row}])
def test_the_observation_may_be_changed_while_it_is_asked(spell):
    asked, changed = threading.Event(), threading.Event()

    class Slow(Server):
        def act(self, observation, **fields):
            asked.set()
            assert changed.wait(WAIT_S)
            return super().act(observation, **fields)

    server = Slow(STUB | {"control_hz": 1000.0})
    with ControlLoop(server) as loop:
        row = np.array([1.0], np.float32)
        observation = spell(row)
        loop.step(observation)
        assert asked.wait(WAIT_S)
        row[:] = 2.0
        if isinstance(observation, dict):
            observation["tip"] = 3.0
        changed.set()
        while not server.asked:
            loop.step(observation)
    assert server.asked[0][0] == spell([1.0])


def test_requests_have_the_budget_the_seed_and_the_rest_of_the_deadline():
    server, clock = Server(), FakeClock()
    ask = Ask("stub", 8, 2, deadline_ms=50, on_late="reject", min_quality=0.9, temperature=0.5)
    with ControlLoop(server, ask, clock=clock) as loop:
        loop.step([1.0, 2.0], seed=7)
    ((observation, fields),) = server.asked
    assert observation == [1.0, 2.0]
    assert fields == {
        "model": "stub",
        "num_candidates": 8,
        "num_steps": 2,
        "on_late": "reject",
        "min_quality": 0.9,
        "temperature": 0.5,
        "committed": None,
        "coherence": None,
        "seed": 7,
        "deadline_ms": pytest.approx(50.0),
    }


def test_one_question_at_a_time_is_under_way_and_the_newest_is_next():
    """A client that does not keep to its deadline holds up its own replies, and no tick."""
    entered, release = threading.Event(), threading.Event()

    class Stuck(Server):
        def act(self, observation, **fields):
            reply = super().act(observation, **fields)
            if len(self.asked) == 1:
                entered.set()
                assert release.wait(WAIT_S)
            return reply

    server = Stuck(STUB | {"control_hz": 1000.0})
    with ControlLoop(server, on_miss="hold") as loop:
        ticks = [loop.step([0.0])]
        assert entered.wait(WAIT_S)
        ticks += [loop.step([float(number)]) for number in range(1, 10)]
        assert {tick.source for tick in ticks} == {"held"}
        assert len(server.asked) == 1
        release.set()
        late = []
        while not late:
            tick = loop.step([10.0])
            late = [one.tick for one in tick.late]
        assert late == [0]
    observations = [observation for observation, _ in server.asked]
    assert observations[0] == [0.0]
    assert [1.0] not in observations


def test_a_real_server_that_stops_and_comes_back(fake_server):
    server = fake_server(action_dim=2, control_hz=50.0)
    good, stopped, resumed = server.answer, threading.Event(), threading.Event()

    def answer(fields):
        if stopped.is_set():
            assert resumed.wait(WAIT_S)
        return good(fields)

    server.answer = answer
    with Client(server.url) as client, ControlLoop(client) as loop:
        ticks = []

        def until(source):
            end = time.monotonic() + WAIT_S
            while not ticks or ticks[-1].source != source:
                assert time.monotonic() < end, f"no tick was {source}"
                ticks.append(loop.step([0.5, 0.25]))

        until("fresh")
        stopped.set()
        until("held")
        assert ticks[-1].action.tolist() == ticks[-2].action.tolist()
        stopped.clear()
        resumed.set()
        until("fresh")
        assert ticks[-1].reply is not None
        assert loop.statistics().ticks == len(ticks)


def test_a_server_that_is_silent_from_the_first_tick_on():
    with silent() as url, Client(url) as client:
        ask = Ask(deadline_ms=10)
        client.models = lambda: [STUB]
        with ControlLoop(client, ask) as loop:
            ticks = [loop.step([0.0, 0.0]) for _ in range(5)]
        assert [tick.source for tick in ticks] == ["held"] * 5
        assert all(tick.latency_ms < 5000 for tick in ticks)  # a busy machine's 10


def test_a_deadline_in_seconds_is_a_miss_that_says_its_unit():
    loop, _ = simulated([0.01], ask=Ask(deadline_ms=0.05))
    assert "(deadline_ms was 0.05, in milliseconds)" in str(loop.step([0.0]).error)
    loop, _ = simulated([None])  # nobody gave one
    assert "deadline_ms" not in str(loop.step([0.0]).error)


def test_what_is_given_need_not_be_asked_for():
    class Mute(Server):
        def models(self):
            raise AssertionError

    with ControlLoop(Mute(), hz=0.1, action_horizon=1, initial=[0.0, 0.0]) as loop:
        assert loop.step([0.0]).action.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("models", "ask", "kind", "complaint"),
    [
        ([STUB, STUB | {"name": "b"}], Ask(), InvalidArgument, "served: stub, b; found None, and none is the default"),
        ([STUB, STUB | {"name": "b", "action_dim": 0, "default": True}], Ask(), InvalidReply, "model 'b': action_dim"),
        ([STUB], Ask(model="c"), InvalidArgument, "model: expected one of those served: stub; found 'c'"),
        ([], Ask(), InvalidArgument, "served: none"),
        ([{"name": "stub", "action_dim": 2}], Ask(), InvalidReply, "model 'stub': control_hz: expected"),
        ([STUB | {"action_dim": 0}], Ask(), InvalidReply, "model 'stub': action_dim: expected an integer from 1"),
        (
            [STUB],
            Ask(deadline_ms=101),
            InvalidArgument,
            "deadline_ms: expected .* the period of 100; found 101",
        ),
        ([STUB], Ask(deadline_ms=0), InvalidArgument, "deadline_ms: expected a number of milliseconds above 0"),
    ],
)
def test_loops_that_cannot_be_are_refused_by_name(models, ask, kind, complaint):
    server = Server()
    server.entries = models
    with pytest.raises(kind, match=complaint):
        ControlLoop(server, ask)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"on_miss": "freeze"}, "on_miss"),
        ({"on_miss": None}, "on_miss"),
        ({"initial": [0.0]}, "initial"),
        ({"initial": [[0.0, 0.0]]}, "initial"),
        ({"initial": [0.0, float("inf")]}, "initial"),
    ],
)
def test_options_at_fault_are_refused_by_name(options, field):
    with pytest.raises(InvalidArgument, match=f"{field}: expected") as caught:
        ControlLoop(Server(), **options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("observation", "label"),
    [
        *((value, "observation") for value in ([[0.0]], float("nan"), [float("nan")], ["0"], 1.0, {}, {1: [0.0]})),
        *(({"a": [0.0], "b": value}, r"observation\['b'\]") for value in ([[0.0]], float("nan"), "0", None)),
        ({"a": [[0.0]], "b": [[0.0]]}, r"observation\['a'\]"),
    ],
)
def test_an_observation_at_fault_is_refused_and_is_no_tick(observation, label):
    loop, _ = simulated([0.01])
    with pytest.raises(InvalidArgument, match=f"^invalid_argument: {label}: expected"):
        loop.step(observation)
    assert loop.statistics().ticks == 0
    assert loop.step([0.0]).number == 0


def test_a_closed_loop_asks_no_more():
    server = Server(UNHURRIED)
    with ControlLoop(server) as loop:
        loop.step([0.0])
    with pytest.raises(RuntimeError, match="closed"):
        loop.step([0.0])
    assert len(server.asked) == 1


def test_a_loop_is_forgotten_with_its_thread():
    loop = ControlLoop(Server(UNHURRIED))
    assert loop.step([0.0]).source == "fresh"
    threads = [thread for thread in threading.enumerate() if thread.name == "sorl-control-loop"]
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_a_client_is_all_that_a_loop_needs():
    """Whatever has `models` and `act` will do, such as a policy in the same process."""
    own = SimpleNamespace(models=lambda: [UNHURRIED], act=lambda observation, **fields: action(*observation))
    with ControlLoop(own) as loop:
        assert loop.step([0.25, 0.5]).action.tolist() == [0.25, 0.5]
