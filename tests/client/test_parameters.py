"""Every number of every call: NumPy scalars count as numbers, and what is no number in range is refused by name."""

import asyncio
import dataclasses
import inspect
from fractions import Fraction
from types import SimpleNamespace

import httpx
import msgpack
import numpy as np
import pytest
from sorl_client import (
    AsyncClient,
    CircuitBreaker,
    Client,
    ControlLoop,
    DeadlineExceeded,
    Hedge,
    InvalidArgument,
    RequestRefused,
    RetryPolicy,
    SorlError,
    WrongArgumentType,
    episodes,
    wire,
)
from sorl_client.control import Ask, run_episode, run_in_loop
from sorl_client.delayed_link import DelayedLink
from sorl_client.episodes import EpisodeSeeds
from sorl_client.parameters import LONGEST_WAIT_S

OBSERVATION = np.array([0.5, -0.5], np.float32)
HUGE = 10**5000  # more digits than Python prints

# No parameter takes these. Of them, those of WRONG_TYPE are TypeErrors too.
WRONG_TYPE = [
    True,
    np.True_,
    np.array(False),
    "5",
    b"5",
    1j,
    np.complex64(1),
    np.timedelta64(5, "ms"),
    np.array([[5.0]]),
    np.array("5"),
    {},
    object(),
]
WRONG_VALUE = [float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.array(np.inf), np.longdouble("inf")]
WRONG_VALUE += [HUGE, -HUGE, Fraction(HUGE, 3)]

INTEGERS = [np.int8(1), np.int64(1), np.uint64(1), np.array(1), np.array(1, np.uint8)]
FLOATS = [np.float16(1), np.float32(1), np.float64(1), np.longdouble(1), np.array(1.0), np.array(1, np.float32)]
WHOLE = [*INTEGERS, *FLOATS]  # a float that is whole counts as the integer: the server takes it too
REAL = [*INTEGERS, *FLOATS]
FRACTIONS = [5.5, np.float32(5.5), np.array(5.5), Fraction(11, 2), np.longdouble(5.5)]

# Parameter of each call: (its kind, values at the ends of its range, values beyond them)
ACT = {
    "num_candidates": (WHOLE, [1, 2**53], [0, -1, 2**53 + 1]),
    "num_steps": (WHOLE, [1, 2**53], [0, -1, 2**53 + 1]),
    "deadline_ms": (REAL, [3_600_000, 1.5], [3_600_001, 1e300]),
    "seed": (WHOLE, [0, 2**64 - 1], [-1, 2**64]),
    "temperature": (REAL, [0, 0.0, 2, 2.0], [-0.001, 2.001]),
    "min_quality": (REAL, [0, 0.0, 1, 1.0], [-0.001, 1.001]),
    "coherence": (REAL, [0, 0.0, 1, 1.0], [-0.001, 1.001]),
    "priority": (WHOLE, [0, 9], [-1, 10]),
}
CLIENT = {
    "timeout_s": (REAL, [1e-6, LONGEST_WAIT_S], [0, 0.0, -1, LONGEST_WAIT_S + 1, 1e300]),
    "transit_ms": (REAL, [0, 3_600_000], [-1, 3_600_001]),
}
WAIT = {"timeout": (REAL, [1e-6, LONGEST_WAIT_S], [0, 0.0, -1, LONGEST_WAIT_S + 1])}
RETRY = {
    "attempts": (WHOLE, [1, 2**53], [0, -1]),
    "first_s": (REAL, [0, 1e-9], [-1e-9, LONGEST_WAIT_S + 1]),
    "longest_s": (REAL, [0.5, LONGEST_WAIT_S], [-1.0, LONGEST_WAIT_S + 1]),
    "patience_s": (REAL, [0, LONGEST_WAIT_S], [-1, LONGEST_WAIT_S + 1]),
}
HEDGE = {
    "after_ms": (REAL, [0, 3_600_000], [-1, 3_600_001]),
    "share": (REAL, [0, 1], [-0.001, 1.001]),
}
BREAKER = {
    "failures": (WHOLE, [1, 2**53], [0, -1]),
    "cooldown_s": (REAL, [0, LONGEST_WAIT_S], [-1, LONGEST_WAIT_S + 1]),
}
LOOP = {
    "hz": (REAL, [0.001, 1e6], [0, -1, 1e-4, 1e7]),
    "action_horizon": (WHOLE, [1, 50], [0, -1]),
    "execute": (WHOLE, [1, 4], [0, -1, 5]),
    "ahead": (WHOLE, [0, 3], [-1, 4]),
}
LOOP_STEP = {"seed": ACT["seed"]}
LOOP_START = LOOP_STEP | {"timeout_s": CLIENT["timeout_s"]}
BACKOFF = {"failures": (WHOLE, [0, 5000], [-1]), "retry_after_s": (REAL, [0, 1e300], [-1e-9])}
ASK_NUMBERS = ("num_candidates", "num_steps", "deadline_ms", "min_quality", "temperature", "coherence")
ASK = {name: ACT[name] for name in ASK_NUMBERS}
EPISODE = {"max_steps": (WHOLE, [0, 6], [-1])}
LINK = {"latency_ms": (REAL, [0, 3_600_000], [-1, 3_600_001])}
SEEDS = {"episode": (WHOLE, [0, 2**33 - 1], [-1, 2**33])}
TICK = {"step": (WHOLE, [0, 2**20], [-1])}
EPISODES = {"first": (WHOLE, [0, 2**33 - 2], [-1, 2**33]), "episodes": (WHOLE, [0, 1], [-1, 2**33])}
RESET = {"seed": (WHOLE, [0, 2**33 - 1], [-1, 2**33])}


class Network:
    """Answers every call, and records what was sent."""

    def __init__(self):
        self.bodies = []
        self.timeouts = []

    def __call__(self, request):
        self.bodies.append(request.content)
        self.timeouts.append(request.extensions["timeout"]["read"])
        if request.url.path == "/readyz":
            return httpx.Response(200)
        fields = wire.decode(request.content, request.headers["Content-Type"])
        reply = dict.fromkeys(("q", "q_std", "observation_z_max"), 0.0) | dict.fromkeys(
            ("model", "model_version", "engine"), "x"
        )
        reply |= {"action": [0.0], "num_candidates": 1, "num_steps": 1, "degraded": False, "seed": 1, "timing_ms": {}}
        body = msgpack.packb(reply | {"request_id": fields["request_id"]})
        return httpx.Response(200, content=body, headers={"Content-Type": wire.MSGPACK})


def sync_call(network, method, *arguments, options=(), **keywords):
    with Client(
        "http://robot.test", transport=httpx.MockTransport(network), clock=lambda: 100.0, **dict(options)
    ) as client:
        return getattr(client, method)(*arguments, **keywords)


def async_call(network, method, *arguments, options=(), **keywords):
    async def run():
        async with AsyncClient(
            "http://robot.test", transport=httpx.MockTransport(network), clock=lambda: 100.0, **dict(options)
        ) as client:
            return await getattr(client, method)(*arguments, **keywords)

    return asyncio.run(run())


class Robot:
    dt = 0.1
    observation_space = SimpleNamespace(shape=(1,))
    action_space = SimpleNamespace(shape=(1,), seed=lambda seed: None)

    def __init__(self):
        self.unwrapped = self
        self.steps = 0

    def reset(self, seed):
        return np.zeros(1), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1), 0.0, self.steps == 6, False, {"success": 0.0}


class Server:
    def act(self, observation, **fields):
        return SimpleNamespace(action=np.zeros(1, np.float32), degraded=False, engine="e", model_version="v")


def episode(**options):
    return run_episode(Robot(), Server(), EpisodeSeeds(0), Ask(), realtime=False, **options).steps


def looped_episode(**options):
    with control_loop(horizon=1, sleep=lambda seconds: None) as loop:
        return run_in_loop(Robot(), loop, EpisodeSeeds(0), **options).steps


def link(**options):
    with DelayedLink("http://robot.test", **options):
        pass


def backoff(failures=0, retry_after_s=None):
    return RetryPolicy(attempts=10**6, patience_s=1.0).wait_s(failures, retry_after_s, lambda: 0.5)


def control_loop(horizon=4, **options):
    server = Server()
    server.models = lambda: [{"name": "stub", "action_dim": 1, "control_hz": 0.1, "action_horizon": horizon}]
    return ControlLoop(server, **options)


def loop_step(**fields):
    with control_loop(horizon=1) as loop:
        return loop.step(OBSERVATION, **fields)


def loop_start(**fields):
    with control_loop(horizon=1) as loop:
        loop.start(OBSERVATION, **fields)


def client(kind):
    return lambda **settings: kind("http://robot.test", transport=httpx.MockTransport(Network()), **settings)


def retry(**settings):
    return RetryPolicy(**({"first_s": 0.001, "longest_s": 10.0} | settings))


def act(call, network=None):
    return lambda **fields: call(network or Network(), "act", OBSERVATION, request_id="r", **fields)


CALLS = {
    "Client": (client(Client), CLIENT),
    "AsyncClient": (client(AsyncClient), CLIENT),
    "Client.act": (act(sync_call), ACT),
    "AsyncClient.act": (act(async_call), ACT),
    "Client.wait_until_ready": (lambda **f: sync_call(Network(), "wait_until_ready", **f), WAIT),
    "AsyncClient.wait_until_ready": (lambda **f: async_call(Network(), "wait_until_ready", **f), WAIT),
    "RetryPolicy": (retry, RETRY),
    "RetryPolicy.wait_s": (backoff, BACKOFF),
    "Hedge": (Hedge, HEDGE),
    "CircuitBreaker": (CircuitBreaker, BREAKER),
    "ControlLoop": (control_loop, LOOP),
    "ControlLoop.start": (loop_start, LOOP_START),
    "ControlLoop.step": (loop_step, LOOP_STEP),
    "Ask": (Ask, ASK),
    "run_episode": (episode, EPISODE),
    "run_in_loop": (looped_episode, EPISODE),
    "DelayedLink": (link, LINK),
    "EpisodeSeeds": (EpisodeSeeds, SEEDS),
    "EpisodeSeeds.action": (lambda **f: EpisodeSeeds(3).action(**f), TICK),
    "seeds": (lambda **f: list(episodes.seeds(**({"first": 1, "episodes": 2} | f))), EPISODES),
    "reset": (lambda **f: episodes.reset(Robot(), **f), RESET),
}
ROWS = [("Client.act", "seed"), ("AsyncClient.act", "seed")]  # may be a list, see below
TABLE = [(call, name) for call, (_, parameters) in CALLS.items() for name in parameters]


@pytest.mark.parametrize(("call", "name"), TABLE)
def test_what_is_no_number_in_range_is_refused_by_name(call, name):
    function, parameters = CALLS[call]
    kind, _, beyond = parameters[name]
    wrong_type = WRONG_TYPE + ([] if kind is REAL else FRACTIONS)
    wrong_type += [] if (call, name) in ROWS else [[], [5]]
    for value in [*wrong_type, *WRONG_VALUE, *beyond]:
        with pytest.raises(InvalidArgument, match=rf"\b{name}: expected .*; found ") as caught:
            function(**{name: value})
        error = caught.value
        assert isinstance(error, SorlError)
        assert isinstance(error, ValueError)
        assert (error.field, error.status, error.code, error.retryable) == (name, None, "invalid_argument", False)
        assert len(str(error)) < 250
        assert "\n" not in str(error)
        if any(value is x for x in wrong_type):
            assert isinstance(error, WrongArgumentType)
            assert isinstance(error, TypeError)
        else:
            assert not isinstance(error, TypeError) or kind is WHOLE, value


@pytest.mark.parametrize(("call", "name"), TABLE)
def test_numpy_scalars_and_the_ends_of_the_range_are_taken(call, name):
    function, parameters = CALLS[call]
    kind, ends, _ = parameters[name]
    for value in [*kind, *ends, *(np.float64(end) for end in ends if end < 2**64 - 1)]:
        function(**{name: value})
    if kind is WHOLE:
        for end in ends:
            function(**{name: np.uint64(end)})


@pytest.mark.parametrize(("call", "name"), [(call, name) for call, name in TABLE if name.endswith("_ms")])
def test_a_refused_time_in_milliseconds_is_told_its_unit(call, name):
    function, parameters = CALLS[call]
    for value in [*parameters[name][2], float("nan"), "0.05"]:
        with pytest.raises(InvalidArgument, match=rf"\b{name}: expected .* \(milliseconds\); found "):
            function(**{name: value})


@pytest.mark.parametrize("media_type", [wire.MSGPACK, wire.JSON])
@pytest.mark.parametrize("call", [sync_call, async_call])
@pytest.mark.parametrize("name", ACT)
def test_a_numpy_scalar_is_sent_as_the_number_it_is(call, name, media_type):
    for value in ACT[name][0]:
        network = Network()
        ask = act(call, network)
        ask(**{name: value}, options={"media_type": media_type})
        ask(
            **{name: value.item() if value.dtype != np.longdouble else float(value)}, options={"media_type": media_type}
        )
        assert network.bodies[0] == network.bodies[1]
        assert network.timeouts[0] == network.timeouts[1]


def packed(**fields):
    observation = {b"__ndarray__": True, b"data": OBSERVATION.tobytes(), b"dtype": "<f4", b"shape": [2]}
    return msgpack.packb({"observation": observation, "on_late": "degrade", "request_id": "r"} | fields)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"num_candidates": 8, "num_steps": 4}, {"num_candidates": 8, "num_steps": 4}),
        ({"temperature": 1}, {"temperature": 1}),  # stays an integer
        ({"temperature": np.float32(0.1)}, {"temperature": float(np.float32(0.1))}),
        ({"seed": np.uint64(2**64 - 1)}, {"seed": 2**64 - 1}),
        ({"seed": [1, 2**64 - 1]}, {"seed": [1, 2**64 - 1]}),
        ({"seed": (1, np.int32(2))}, {"seed": [1, 2]}),
        ({"seed": [1.0, np.float32(2), Fraction(3)]}, {"seed": [1, 2, 3]}),
        ({"seed": np.array([1.0, 2.0])}, {"seed": [1, 2]}),
        ({"seed": float(2**53)}, {"seed": 2**53}),
        ({"num_candidates": 8.0, "num_steps": np.float32(4)}, {"num_candidates": 8, "num_steps": 4}),
        ({"priority": np.array(9.0)}, {"priority": 9}),
        ({"priority": np.int64(0)}, {"priority": 0}),
        ({"deadline_ms": np.float32(50), "options": {"transit_ms": np.int8(2)}}, {"deadline_ms": 48.0}),
        (
            {"seed": np.array([1, 2], "<u8")},
            {
                "seed": {
                    b"__ndarray__": True,
                    b"data": b"\1" + bytes(7) + b"\2" + bytes(7),
                    b"dtype": "<u8",
                    b"shape": [2],
                }
            },
        ),
    ],
)
def test_the_bytes_of_a_request(given, sent):
    network = Network()
    act(sync_call, network)(**given)
    body = msgpack.unpackb(network.bodies[0])
    if "deadline_ms" in sent:  # what is left by the clock, whose rounding is not of interest here
        assert body["deadline_ms"] == pytest.approx(sent["deadline_ms"])
    else:
        assert network.bodies[0] == packed(**sent)


@pytest.mark.parametrize(
    "seeds",
    [
        [],
        (),
        np.array([], np.int64),
        [1, True],
        [1, "2"],
        [1, 2.5],
        [1, float("nan")],
        [1, -1],
        [1, -1.0],
        [float(2**53 + 2)],  # it may have been another integer
        2.0**63,
        [2**64],
        [None],
        [[1], [2]],
        np.array([1, -1]),
        np.array([1.0, 2.5]),
        np.array([1.0, -2.0]),
        np.array([1.0, np.nan]),
        np.array([], np.float32),
        np.array([[1, 2]]),
        np.array([True, False]),
        np.array([1, 2], object),
        np.array([1, 2], "m8[s]"),
    ],
)
def test_seeds_of_rows_are_refused_by_name(seeds):
    network = Network()
    with pytest.raises(InvalidArgument, match="seed") as caught:
        act(sync_call, network)(seed=seeds)
    assert caught.value.field == "seed"
    assert network.bodies == []


@pytest.mark.parametrize(
    "observation",
    [
        ["0.5", "1"],
        [0.5, "1"],
        "0.5",
        b"0.5",
        np.array(["0.5"], object),
        [0.5, None],
        [0.5, {}],
        [1j],
        [[0.5], [0.5, 1.0]],
        [0.5, float("nan")],
        [float("inf")],
        [1e39],  # beyond float32
        [HUGE],
        np.array(["2026-01-01"], "M8[D]"),
        iter([0.5]),
    ],
)
@pytest.mark.parametrize("media_type", [wire.MSGPACK, wire.JSON])
@pytest.mark.parametrize("call", [sync_call, async_call])
def test_an_observation_of_other_than_finite_numbers_is_refused_by_name(call, observation, media_type):
    network = Network()
    with pytest.raises(InvalidArgument, match="observation: expected ") as caught:
        call(network, "act", observation, options={"media_type": media_type})
    assert caught.value.field == "observation"
    assert len(str(caught.value)) < 250
    assert network.bodies == []


@pytest.mark.parametrize(
    "observation", [[0.5, -0.5], (0.5, np.float16(-0.5)), np.array([0.5, -0.5]), [np.array(0.5), -0.5]]
)
def test_an_observation_may_be_any_array_of_numbers(observation):
    network = Network()
    sync_call(network, "act", observation, request_id="r")
    assert network.bodies == [packed()]


@pytest.mark.parametrize("call", [sync_call, async_call])
@pytest.mark.parametrize("deadline_ms", [0, -1, np.float32(-5), np.int64(0), -1e300])
def test_a_deadline_that_has_passed_is_deadline_exceeded(call, deadline_ms):
    network = Network()
    with pytest.raises(DeadlineExceeded):
        act(call, network)(deadline_ms=deadline_ms)
    assert network.bodies == []


@pytest.mark.parametrize("deadline_ms", [0.05, np.float32(0.05), 0, -5.0])
@pytest.mark.parametrize("call", [sync_call, async_call])
def test_a_deadline_that_nothing_meets_is_told_its_unit(call, deadline_ms):
    """0.05 of whoever thinks in seconds."""
    network = Network()
    with pytest.raises(DeadlineExceeded, match=rf"\(deadline_ms was {deadline_ms:g}, in milliseconds\)$"):
        act(call, network)(deadline_ms=deadline_ms)
    assert network.bodies == []


def test_a_refused_argument_is_a_refused_request():
    """Code that handles the server's refusal of a number handles the client's too."""
    with pytest.raises(RequestRefused) as caught:
        act(sync_call)(temperature=3.0)
    assert str(caught.value) == "invalid_argument: temperature: expected a number from 0 to 2; found 3.0"
    with pytest.raises(ValueError, match="finite number above 0"):
        Client("http://robot.test", timeout_s=float("inf"))


def test_the_first_wait_is_at_most_the_longest():
    with pytest.raises(InvalidArgument, match=r"first_s: expected at most longest_s = 1\.0; found 2") as caught:
        RetryPolicy(first_s=2)
    assert caught.value.field == "first_s"


def test_waits_do_not_overflow():
    """2^1024 is beyond a float."""
    assert RetryPolicy(attempts=5000).wait_s(4000, None, lambda: 0.5) == 0.5
    assert RetryPolicy(attempts=5000, first_s=0).wait_s(4000, None, lambda: 0.5) == 0.0


@pytest.mark.parametrize("media_type", [wire.MSGPACK, wire.JSON])
def test_every_refusal_comes_before_anything_is_sent(media_type):
    network = Network()
    for name in ACT:
        with pytest.raises(InvalidArgument):
            act(sync_call, network)(**{name: float("nan")}, options={"media_type": media_type})
    with pytest.raises(InvalidArgument):
        sync_call(network, "wait_until_ready", float("nan"))
    assert network.bodies == []


def test_what_is_kept_is_plain():
    """So that it can be written as JSON, and no narrow integer overflows."""
    ask = Ask(
        num_candidates=np.float16(8),
        deadline_ms=np.float32(50),
        min_quality=np.float32(0.5),
        temperature=np.array(0.5),
        coherence=np.float16(1),
    )
    assert [type(value) for value in dataclasses.astuple(ask)] == [
        type(None),
        int,
        type(None),
        float,
        str,
        float,
        float,
        float,
    ]
    assert type(EpisodeSeeds(np.int32(5000)).action(np.int8(7))) is int
    assert EpisodeSeeds(np.int32(5000)).action(np.int8(7)) == 5000 * 2**20 + 7
    policy = RetryPolicy(3.0, np.float32(0.5), np.int64(1), np.float16(2))
    assert [type(value) for value in dataclasses.astuple(policy)] == [int, float, int, float]


def test_the_last_of_the_episodes_is_in_range_before_the_first_begins():
    with pytest.raises(InvalidArgument, match="episodes: "):
        episodes.seeds(2**33 - 1, 2)


FUNCTIONS = {
    "Client": Client,
    "AsyncClient": AsyncClient,
    "Client.act": Client.act,
    "AsyncClient.act": AsyncClient.act,
    "Client.wait_until_ready": Client.wait_until_ready,
    "AsyncClient.wait_until_ready": AsyncClient.wait_until_ready,
    "Client.models": Client.models,
    "Client.reload": Client.reload,
    "Client.ready": Client.ready,
    "RetryPolicy": RetryPolicy,
    "RetryPolicy.wait_s": RetryPolicy.wait_s,
    "Hedge": Hedge,
    "CircuitBreaker": CircuitBreaker,
    "ControlLoop": ControlLoop,
    "ControlLoop.start": ControlLoop.start,
    "ControlLoop.step": ControlLoop.step,
    "Ask": Ask,
    "run_episode": run_episode,
    "run_in_loop": run_in_loop,
    "DelayedLink": DelayedLink,
    "EpisodeSeeds": EpisodeSeeds,
    "EpisodeSeeds.action": EpisodeSeeds.action,
    "seeds": episodes.seeds,
    "reset": episodes.reset,
}


@pytest.mark.parametrize("call", FUNCTIONS)
def test_no_number_of_a_call_is_left_out_of_the_table(call):
    annotations = {name: p.annotation for name, p in inspect.signature(FUNCTIONS[call]).parameters.items()}
    numbers = {
        name
        for name, annotation in annotations.items()
        if {"int", "float"} & set(str(annotation).replace("|", " ").split()) and "Callable" not in str(annotation)
    }
    assert numbers == set(CALLS.get(call, (None, {}))[1])


def test_sockets_take_the_longest_wait(fake_server):
    url = fake_server().url
    with Client(url, timeout_s=LONGEST_WAIT_S) as client:
        client.wait_until_ready(LONGEST_WAIT_S)
        client.act(OBSERVATION)

    async def run():
        async with AsyncClient(url, timeout_s=np.float64(LONGEST_WAIT_S)) as client:
            await client.wait_until_ready(LONGEST_WAIT_S)
            await client.act(OBSERVATION)

    asyncio.run(run())
