"""The Open Inference Protocol, version 2, over HTTP: tensors in JSON, or in binary behind it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bench.connection import Response
from bench.protocols.http import HttpProtocol
from bench.protocols.wire import Ask, Reply, unreadable, worded_error

HEADER_LENGTH = "Inference-Header-Content-Length"
DTYPES = {"FP32": "<f4", "INT32": "<i4"}
"""Of the outputs that are read."""
OF_A_ROW = ("action", "num_candidates", "num_steps")


class OpenInferenceJson(HttpProtocol):
    """Tensors are flat lists of numbers."""

    def encode(self, ask: Ask) -> bytes:
        return self._infer(ask, {"data": ask.observation.tolist()}, {})

    def read(self, raw: Response) -> Reply:
        header = raw.headers.get("x-request-id")
        length = int(raw.headers.get(HEADER_LENGTH.lower(), len(raw.body)))
        try:
            head, tail = json.loads(raw.body[:length]), raw.body[length:]
            if raw.status != 200:
                return worded_error(head["error"], frozenset((header,)), raw.status, raw.headers.get("retry-after"))
            outputs = _values(head["outputs"], tail)
            parameters = head["parameters"]
            ids = frozenset((header, head.get("id"), parameters.get("request_id")))
            action, n, m = (outputs[name] for name in OF_A_ROW)
            fields = {"action": action, "num_candidates": int(n[0]), "num_steps": int(m[0])}
            fields |= {"model_version": head["model_version"], **parameters}
            return Reply(200, ids, fields)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return unreadable(raw.status, frozenset((header,)), raw.body)

    def _path(self, ask: Ask) -> str:
        return f"/v2/models/{ask.model}/infer"

    def _infer(self, ask: Ask, content: dict[str, Any], parameters: dict[str, Any], tail: bytes = b"") -> bytes:
        shape = [1, len(ask.observation)]
        request_id, options = id_and_parameters(ask)
        head: dict[str, Any] = {
            "inputs": [{"name": "observation", "datatype": "FP32", "shape": shape, **content}],
            "parameters": {**options, **parameters},
        }
        if request_id is not None:
            head["id"] = request_id
        encoded = json.dumps(head).encode()
        return self.wrap(ask, encoded + tail, {HEADER_LENGTH: str(len(encoded))} if tail else {})


class OpenInferenceBinary(OpenInferenceJson):
    """Tensors are bytes behind the JSON, both ways."""

    media_type = "application/octet-stream"

    def encode(self, ask: Ask) -> bytes:
        tail = ask.observation.astype("<f4").tobytes()
        return self._infer(ask, {"parameters": {"binary_data_size": len(tail)}}, {"binary_data_output": True}, tail)


def id_and_parameters(ask: Ask) -> tuple[str | None, dict[str, Any]]:
    """The request's id, and the parameters in which the protocol has everything else but the observation."""
    options = ask.options()
    request_id = options.pop("request_id", None)
    deadline_ms = options.pop("deadline_ms", None)
    if deadline_ms is not None:
        options["timeout"] = round(1000 * deadline_ms)  # Triton's, in microseconds
    return request_id, options


def _values(outputs: list[dict[str, Any]], tail: bytes) -> dict[str, np.ndarray]:
    """The outputs that are read, flat: there is one row."""
    found, start = {}, 0
    for output in outputs:
        size = output.get("parameters", {}).get("binary_data_size")
        end = start + (size or 0)
        if output["name"] in OF_A_ROW:
            dtype = DTYPES[output["datatype"]]
            found[output["name"]] = (
                np.asarray(output["data"], dtype) if size is None else np.frombuffer(tail[start:end], dtype)
            )
        start = end
    if start != len(tail):
        raise ValueError(f"{start} bytes of tensors, and {len(tail)} behind the JSON")
    return found
