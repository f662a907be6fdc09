"""The Open Inference Protocol, version 2, of KServe and NVIDIA Triton: named tensors, as JSON or as bytes behind it.

    request   {"id"?, "inputs": [tensor], "parameters"?, "outputs"?: [{"name", "parameters"?: {"binary_data"}}]}
    reply     {"model_name", "model_version", "id"?, "outputs": [tensor], "parameters"}
    tensor    {"name", "datatype", "shape", "data"}; in binary {"name", "datatype", "shape", "parameters":
              {"binary_data_size"}}, and its bytes (little-endian, in C order) come behind the JSON

Behind JSON of n bytes all binary tensors follow in their order, and a header says n (`HEADER_LENGTH`). The inputs are
the observation and `committed`, the parameters are other fields of POST /act, and the outputs are an answer's arrays
(`OUTPUTS`).
"""

from service.protocol.open_inference.descriptions import (
    REPLY_SCHEMA,
    REQUEST_SCHEMA,
    error_responses,
    model_config,
    model_metadata,
    repository_index,
)
from service.protocol.open_inference.parameters import name_timeout
from service.protocol.open_inference.replies import (
    encode_error,
    encode_reply,
    error_text,
    reply_parameters,
    reply_tensors,
)
from service.protocol.open_inference.requests import HEADER_LENGTH, InferRequest, decode, parse_infer
from service.protocol.open_inference.tensors import OUTPUTS, check_outputs, input_array, usual_outputs

__all__ = [
    "HEADER_LENGTH",
    "OUTPUTS",
    "REPLY_SCHEMA",
    "REQUEST_SCHEMA",
    "InferRequest",
    "check_outputs",
    "decode",
    "encode_error",
    "encode_reply",
    "error_responses",
    "error_text",
    "input_array",
    "model_config",
    "model_metadata",
    "name_timeout",
    "parse_infer",
    "reply_parameters",
    "reply_tensors",
    "repository_index",
    "usual_outputs",
]
