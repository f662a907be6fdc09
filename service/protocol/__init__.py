"""The wire protocol of POST /act: bytes, fields, replies. It knows neither HTTP servers nor who computes."""

from service.protocol import codec
from service.protocol.codec import decode_array, encode_array
from service.protocol.replies import ActReply, Problem, ReloadReply, act_reply, problem_responses, timing_ms
from service.protocol.schemas import MAX_REQUEST_ID, REQUEST_ID, ActRequest, parse_act, parse_request_id, row_seeds

__all__ = [
    "MAX_REQUEST_ID",
    "REQUEST_ID",
    "ActReply",
    "ActRequest",
    "Problem",
    "ReloadReply",
    "act_reply",
    "codec",
    "decode_array",
    "encode_array",
    "parse_act",
    "parse_request_id",
    "problem_responses",
    "row_seeds",
    "timing_ms",
]
