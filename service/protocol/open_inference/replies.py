"""Replies and errors in JSON, with tensors behind it where they were asked for in binary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ServiceError
from service.protocol import codec
from service.protocol.open_inference.tensors import DTYPES, OUTPUTS
from service.protocol.replies import Answer


def reply_tensors(answer: Answer, outputs: Mapping[str, bool]) -> Iterator[tuple[str, str, NDArray[Any], bool]]:
    """(name, datatype, values, in binary?) of each of `outputs`. For an observation without a row axis actions and
    candidates have none either; the others keep theirs, of size 1.
    """
    for name, binary in outputs.items():
        output = OUTPUTS[name]
        values = output.values(answer)
        if values is None:
            continue
        rows = values[0] if answer.single and values.ndim > 1 else values
        yield name, output.datatype, np.ascontiguousarray(rows, DTYPES[output.datatype]), binary


def encode_reply(
    answer: Answer, outputs: Mapping[str, bool], given_id: str | None, timing: Callable[[], dict[str, float]]
) -> tuple[bytes, int | None]:
    """A reply's body and, if there are binary outputs, the length of its JSON.

    Args:
        outputs: those of the request.
        given_id: the request's own, which the reply echoes.
        timing: ends the measurement of `Timing` and returns it; called when all else is encoded.
    """
    tensors, tail = [], []
    for name, datatype, values, binary in reply_tensors(answer, outputs):
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": values.shape}
        if binary:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            tail.append(values.tobytes())
        else:
            tensor["data"] = values.ravel()
        tensors.append(tensor)
    head = {"model_name": answer.model, "model_version": answer.model_version, "outputs": tensors}
    if given_id is not None:
        head["id"] = given_id
    encoded = codec.encode(head, codec.JSON)
    body = codec.append(encoded, {"parameters": reply_parameters(answer, timing())}, codec.JSON)
    return b"".join((body, *tail)), len(body) if tail else None


def reply_parameters(answer: Answer, timing: Mapping[str, float]) -> dict[str, bool | float | str]:
    """What a reply says beside its tensors: members of POST /act's, `timing_ms` as queue_ms, compute_ms, total_ms."""
    return {
        "request_id": answer.request_id,
        "engine": answer.reply.engine,
        "degraded": answer.request.degraded,
        **{f"{name}_ms": milliseconds for name, milliseconds in timing.items()},
    }


def encode_error(error: ServiceError) -> bytes:
    """An error's body. It is ASCII: a detail may quote lone surrogates, which UTF-8 can't encode."""
    return json.dumps({"error": error_text(error)}).encode("ascii")


def error_text(error: ServiceError) -> str:
    """`code: detail`."""
    return f"{error.code}: {error.detail}"
