"""Messages on the wire: what Triton's client sends is read, and what goes out has the public field numbers."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.grpc.infer import decode, encode_reply, parse_infer
from service.protocol import Answer, codec, parse_act
from service.sample import SampleReply, SampleRequest

# tritonclient 2.73: [[1, 2]], request_id r, output action, priority 2, timeout 5000, and three parameters.
GOLDEN = (
    b'\n\x05small\x1a\x01r"\n\n\x04seed\x12\x02\x10\x03"\x18\n\x0btemperature\x12\t!\x00\x00\x00\x00\x00\x00\xe0?'
    b'"\x13\n\x07on_late\x12\x08\x1a\x06reject"\x0e\n\x07timeout\x12\x03\x10\x88\'"\x0e\n\x08priority\x12\x02(\x02'
    b"*\x17\n\x0bobservation\x12\x04FP32\x1a\x02\x01\x022\x08\n\x06action:\x08\x00\x00\x80?\x00\x00\x00@"
)


def test_what_tritons_client_sends() -> None:
    message = decode(GOLDEN)
    assert (message.model_name, message.id) == ("small", "r")
    request = parse_infer(message)
    assert request.outputs == {"action": True}
    act = parse_act(request.act_fields("small", None, "r"), codec.MSGPACK)
    assert act.observation.tolist() == [[1, 2]]
    assert (act.seed, act.temperature, act.on_late) == (3, 0.5, "reject")
    assert (act.priority, act.deadline_ms) == (1, 5)


def test_what_goes_out() -> None:
    rows = np.array([[1, 2]], np.float32)
    answer = Answer(
        reply=SampleReply(rows, rows[0, :1], rows[0, :1], rows[0, :1], rows[0, :1], "e"),
        request=SampleRequest(rows, 2, 4, np.array([3], np.uint64), degraded="load"),
        single=False,
        seed=3,
        model="small",
        model_version="abc",
        request_id="r",
    )
    body = encode_reply(answer, {"action": True}, "r", lambda: {"total": 0.5})
    assert body == (
        b"\n\x05small\x12\x03abc\x1a\x01r*\x12\n\x06action\x12\x04FP32\x1a\x02\x01\x022\x08\x00\x00\x80?\x00\x00\x00@"
        b'"\x11\n\nrequest_id\x12\x03\x1a\x01r"\r\n\x06engine\x12\x03\x1a\x01e"\x12\n\x08degraded\x12\x06\x1a\x04load'
        b'"\x15\n\x08total_ms\x12\t!\x00\x00\x00\x00\x00\x00\xe0?'
    )


@pytest.mark.parametrize("text", [b"small", b"temperature", b"observation", b"action", b"reject"])
def test_text_that_is_not_utf_8_is_refused(text: bytes) -> None:
    """protobuf's older rules let it through, as bytes where the server expects text."""
    with pytest.raises(InvalidRequest, match="not a ModelInferRequest"):
        decode(GOLDEN.replace(text, b"\xf5" + text[1:]))
