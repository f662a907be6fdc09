"""Inference messages: bytes to an `InferRequest`, an answer to bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from service.errors import InvalidRequest
from service.grpc.messages import MESSAGES
from service.protocol import Answer, open_inference

_CONTENTS = {
    "FP32": "fp32_contents", "FP64": "fp64_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents",
}  # fmt: skip


def decode(body: bytes) -> Any:
    """A `ModelInferRequest`. Raises InvalidRequest for bytes that are none."""
    try:
        return MESSAGES["ModelInferRequest"].FromString(body)
    except Exception as error:  # protobuf's DecodeError has another base in each implementation
        raise InvalidRequest(f"the message is not a ModelInferRequest: {error}") from None


def parse_infer(message: Any) -> open_inference.InferRequest:
    """A `ModelInferRequest` as an inference request.

    Raises:
        InvalidRequest: names the tensor or parameter at fault.
    """
    outputs = dict.fromkeys((output.name for output in message.outputs), True)
    open_inference.check_outputs(outputs)
    for tensor in (*message.inputs, *message.outputs):
        if unknown := sorted(_values(tensor.parameters)):  # shared memory, for one: silence would lose data
            raise InvalidRequest(
                f"{tensor.name[:80]}: expected no parameters; found {unknown[0][:80]!r}", field=tensor.name
            )
    return open_inference.InferRequest(
        _inputs(message), _values(message.parameters), outputs or open_inference.usual_outputs()
    )


def encode_reply(
    answer: Answer, outputs: Mapping[str, bool], given_id: str | None, timing: Callable[[], dict[str, float]]
) -> bytes:
    """A `ModelInferResponse`, with all tensors as raw bytes.

    Args:
        outputs: those of the request.
        given_id: the request's own, which the reply echoes.
        timing: ends the measurement of `Timing` and returns it; called when all else is encoded.
    """
    message = MESSAGES["ModelInferResponse"](
        model_name=answer.model, model_version=answer.model_version, id=given_id or ""
    )
    for name, datatype, values, _ in open_inference.reply_tensors(answer, outputs):
        message.outputs.add(name=name, datatype=datatype, shape=values.shape)
        message.raw_output_contents.append(values.tobytes())
    encoded: bytes = message.SerializeToString()
    late = MESSAGES["ModelInferResponse"]()
    for name, value in open_inference.reply_parameters(answer, timing()).items():
        kind = {bool: "bool_param", float: "double_param", str: "string_param"}[type(value)]
        late.parameters.add(key=name, value={kind: value})
    more: bytes = late.SerializeToString()
    return encoded + more  # the parts of a message may come one after the other


def _inputs(message: Any) -> dict[str, Any]:
    """Arrays by name, from raw bytes or from contents with a type."""
    raw = message.raw_input_contents
    if not message.inputs:
        raise InvalidRequest("inputs: expected at least one tensor; found none", field="inputs")
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"raw_input_contents: expected none, or one for each of {len(message.inputs)} inputs; found {len(raw)}",
            field="raw_input_contents",
        )
    inputs: dict[str, Any] = {}
    for number, tensor in enumerate(message.inputs):
        name = tensor.name
        if name in inputs:
            raise InvalidRequest(f"inputs: {name[:80]!r} is there twice", field=name)
        if raw and tensor.HasField("contents"):
            raise InvalidRequest(f"{name[:80]}: expected raw_input_contents or contents; found both", field=name)
        data = raw[number] if raw else list(getattr(tensor.contents, _CONTENTS.get(tensor.datatype, "bytes_contents")))
        inputs[name] = open_inference.input_array(name, tensor.datatype, list(tensor.shape), data)
    return inputs


def _values(parameters: Any) -> Mapping[str, Any]:
    """Parameters as plain values. One without a value counts as left out."""
    return {entry.key: next((value for _, value in entry.value.ListFields()), None) for entry in parameters}
