"""Wire protocols: bytes, fields, replies. It knows neither servers nor who computes.

`codec`, `schemas` and `replies` are POST /act. Every other module is one protocol, in terms of these: it makes the same
`ActRequest` of what came, and words an `Answer` or an error in its own form.
"""

from service.protocol import codec, groot, open_inference, openpi, openvla
from service.protocol.codec import decode_array, encode_array
from service.protocol.incoming import Answers, Incoming, new_request_id
from service.protocol.names import PROTOCOLS, ProtocolName
from service.protocol.replies import (
    ACT_ERRORS,
    ActReply,
    Answer,
    Problem,
    ReloadReply,
    act_reply,
    problem_responses,
    timing_ms,
)
from service.protocol.schemas import MAX_REQUEST_ID, REQUEST_ID, ActRequest, parse_act, parse_request_id, row_seeds

__all__ = [
    "ACT_ERRORS",
    "MAX_REQUEST_ID",
    "PROTOCOLS",
    "REQUEST_ID",
    "ActReply",
    "ActRequest",
    "Answer",
    "Answers",
    "Incoming",
    "Problem",
    "ProtocolName",
    "ReloadReply",
    "act_reply",
    "codec",
    "decode_array",
    "encode_array",
    "groot",
    "new_request_id",
    "open_inference",
    "openpi",
    "openvla",
    "parse_act",
    "parse_request_id",
    "problem_responses",
    "row_seeds",
    "timing_ms",
]
