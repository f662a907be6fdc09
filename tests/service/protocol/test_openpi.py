"""openpi's frames, to the byte: what its client packs is read, and what it unpacks is written."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from service.errors import (
    BudgetTooLarge,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
    Unauthorized,
)
from service.protocol import Answer, openpi
from service.sample import SampleReply, SampleRequest

# What openpi-client 0.1.2 packs for np.array([1, 2], np.float32).
GOLDEN = bytes.fromhex(
    "84c40b5f5f6e6461727261795f5fc3c40464617461c4080000803f00000040c4056474797065a33c6634c40573686170659102"
)
TIMING = {"queue": 0.25, "compute": 1.5, "total": 2.0}


def frame(**fields: Any) -> bytes:
    """A frame with these fields, as its client packs them: arrays as golden, all other keys of type str."""
    return msgpack.packb(fields, default=pack_array)


def pack_array(value: np.ndarray) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def unpack(frame: openpi.Frame) -> Any:
    """As its client does."""
    assert isinstance(frame, bytes)

    def array(value: dict[Any, Any]) -> Any:
        if b"__ndarray__" in value:
            return np.ndarray(value[b"shape"], value[b"dtype"], value[b"data"])
        return value

    return msgpack.unpackb(frame, object_hook=array)


@pytest.fixture
def answer() -> Answer:
    def floats(*values: float) -> Any:
        return np.array(values, np.float32)

    reply = SampleReply(
        action=floats(1, 2)[None],
        q=floats(3.5),
        q_std=floats(0.5),
        q_first=floats(3),
        observation_z_max=floats(1.25),
        engine="reference",
        candidates=floats(1, 2, 3, 4).reshape(1, 2, 2),
        candidate_q=floats(3.5, 2)[None],
    )
    request = SampleRequest(floats(0, 0, 0)[None], 2, 4, np.array([7], np.uint64), degraded="load")
    return Answer(reply, request, True, 2**60, "cube", "abc", "r1")


def test_an_action_is_the_golden_array_with_a_horizon_of_one(answer: Answer) -> None:
    written = openpi.OPENPI.answered(answer, lambda: TIMING, None)
    assert written.close is None
    assert GOLDEN[:-2] + bytes.fromhex("920102") in written.frame  # type: ignore[operator]
    reply = unpack(written.frame)
    assert reply["actions"].dtype == np.float32
    assert reply["actions"].tolist() == [[1, 2]]
    assert GOLDEN[:-2] + bytes.fromhex("920102") == openpi.VLLM_OMNI.answered(answer, lambda: TIMING, None).frame


def test_everything_but_the_actions_is_plain(answer: Answer) -> None:
    """Its client takes steps of time from the first axis of every array."""
    reply = unpack(openpi.OPENPI.answered(answer, lambda: TIMING, None).frame)
    del reply["actions"]
    assert reply == {
        "q": 3.5,
        "q_std": 0.5,
        "num_candidates": 2,
        "num_steps": 4,
        "degraded": "load",
        "seed": str(2**60),
        "engine": "reference",
        "observation_z_max": 1.25,
        "model": "cube",
        "model_version": "abc",
        "request_id": "r1",
        "candidates": [[1, 2], [3, 4]],
        "candidate_q": [3.5, 2],
        "server_timing": {"infer_ms": 1.5, "queue_ms": 0.25},
    }


def test_from_the_second_reply_on_the_time_of_the_one_before_is_there(answer: Answer) -> None:
    reply = unpack(openpi.OPENPI.answered(answer, lambda: TIMING, 3.25).frame)
    assert reply["server_timing"] == {"infer_ms": 1.5, "queue_ms": 0.25, "prev_total_ms": 3.25}


def test_metadata_is_the_models_entry_with_a_horizon() -> None:
    entry = {
        "name": "cube",
        "version": "abc",
        "action_horizon": 5,
        "obs_dim": 3,
        "control_hz": 20.0,
        "frontier": [{"success": 1.0}],
    }
    assert unpack(openpi.metadata(entry)) == {
        "model": "cube",
        "model_version": "abc",
        "action_horizon": 5,
        "obs_dim": 3,
        "control_hz": 20.0,
        "frontier": [{"success": 1.0}],
    }


@pytest.mark.parametrize("observation", [[1.0, 2.0], np.array([1, 2], np.float32), np.array([[1, 2]], np.float64)])
@pytest.mark.parametrize("name", ["observation", "observation/state", "state"])
def test_a_request_is_acts_fields(name: str, observation: Any) -> None:
    packed = frame(**{name: observation}, num_candidates=8, seed=2**60, deadline_ms=20.0, request_id="r1")
    request = openpi.parse(openpi.OPENPI.fields(packed))
    assert np.ravel(request.observation).tolist() == [1, 2]
    assert (request.num_candidates, request.seed, request.deadline_ms, request.request_id) == (8, 2**60, 20, "r1")


def test_parts_of_an_observation_are_read() -> None:
    fields = {"observation/joints": np.array([1, 2], np.float32), "observation/gripper": np.array([[3]], np.float32)[0]}
    request = openpi.parse(openpi.OPENPI.fields(frame(**fields)))
    assert {name: part.tolist() for name, part in request.observation.items()} == {"joints": [1, 2], "gripper": [3]}
    with pytest.raises(InvalidRequest, match=r"observation: expected one, .* found 2"):
        openpi.parse(openpi.OPENPI.fields(frame(**{"observation/joints": np.zeros((2, 3), np.float32)})))


def test_the_golden_array_is_read() -> None:
    request = openpi.parse(openpi.OPENPI.fields(b"\x81" + msgpack.packb("observation") + GOLDEN))
    assert np.ravel(request.observation).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("received", "said"),
    [
        ("observation", "expected a binary frame of msgpack, found a text frame"),
        (b"", "empty"),
        (b"\xc1", "not msgpack"),
        (msgpack.packb([1]), "expected an object"),
        (frame(num_steps=4), "observation"),
        (frame(observation=np.zeros((2, 3), np.float32)), "observation: expected one, .* found 2"),
        (frame(observation=[1.0], prompt="pick up the cube"), "'prompt' is not a field"),
        (frame(observation=[1.0], __ctrl__="dance"), "'__ctrl__' is not a field"),
        (frame(observation=[1.0], endpoint="reset"), "'endpoint' is not a field"),
        (frame(observation=[1.0], num_candidates=0), "num_candidates"),
        (frame(observation=[float("nan")]), "observation: expected finite numbers"),
    ],
)
def test_what_is_no_request_is_refused_by_name(received: openpi.Frame, said: str) -> None:
    assert openpi.OPENPI.control_reply(received) is None
    with pytest.raises(InvalidRequest, match=said):
        openpi.parse(openpi.OPENPI.fields(received))


@pytest.mark.parametrize("event", ["episode_start", "episode_end"])
def test_episodes_are_acknowledged(event: str) -> None:
    assert openpi.OPENPI.control_reply(frame(__ctrl__=event, prompt="pick up the cube")) == msgpack.packb({})


def test_a_reset_of_vllm_omni_is_acknowledged() -> None:
    assert unpack(openpi.VLLM_OMNI.control_reply(frame(endpoint="reset"))) == {"status": "reset successful"}  # type: ignore[arg-type]
    assert openpi.VLLM_OMNI.control_reply(frame(endpoint="infer", observation=[1.0])) is None


def test_requests_of_vllm_omni() -> None:
    sampling = {"num_inference_steps": 4}
    packed = frame(endpoint="infer", session_id="s", observation=[1.0], sampling_params=sampling, seed=3)
    request = openpi.parse(openpi.VLLM_OMNI.fields(packed))
    assert (request.num_steps, request.seed) == (4, 3)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampling_params": 4}, "sampling_params"),
        ({"sampling_params": {"num_inference_steps": 4, "guidance_scale": 2.0}}, "sampling_params"),
        ({"sampling_params": {"num_inference_steps": 4.5}}, "sampling_params.num_inference_steps"),
        ({"sampling_params": {"num_inference_steps": 0}}, "sampling_params.num_inference_steps"),
        ({"sampling_params": {"num_inference_steps": 4}, "num_steps": 4}, "sampling_params.num_inference_steps"),
        ({"endpoint": "kill"}, "endpoint"),
    ],
)
def test_what_is_no_request_of_vllm_omni_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        openpi.parse(openpi.VLLM_OMNI.fields(frame(observation=[1.0], **fields)))
    assert caught.value.field == named


@pytest.mark.parametrize(
    ("error", "close"),
    [
        (InvalidRequest("observation: é\ud800"), 1011),
        (BudgetTooLarge("too much"), 1011),
        (Unauthorized("a key"), 1011),
        (EngineFailed("it raised"), 1011),
        (NotReady("draining", retry_after_ms=1000), 1012),
        (Overloaded("a queue", retry_after_ms=10), None),
        (RateLimited("a limit", retry_after_ms=10), None),
        (DeadlineExceeded("late"), None),
    ],
)
def test_errors_are_text_and_end_the_session_unless_the_next_request_may_fare_better(
    error: ServiceError, close: int | None
) -> None:
    refused = openpi.OPENPI.refused(error)
    assert isinstance(refused.frame, str)
    assert refused.frame.isascii()
    assert refused.frame.startswith(f"{error.code}: ")
    assert refused.close == close


@pytest.mark.parametrize("error", [Overloaded, RateLimited, NotReady])
def test_an_error_says_when_to_try_again(error: Any) -> None:
    """Its client is shown nothing but the text."""
    refused = error("later", retry_after_ms=120)
    assert openpi.OPENPI.refused(refused).frame == f"{error.code}: later; try again in 120 ms"
    message = {"type": "error", "message": f"{error.code}: later; try again in 120 ms"}
    assert unpack(openpi.VLLM_OMNI.refused(refused).frame) == message


def test_errors_of_vllm_omni_are_objects_and_end_nothing() -> None:
    refused = openpi.VLLM_OMNI.refused(EngineFailed("it raised"))
    assert unpack(refused.frame) == {"type": "error", "message": "engine_failed: it raised"}
    assert refused.close is None
