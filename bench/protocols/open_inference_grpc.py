"""The Open Inference Protocol over gRPC: messages by its public field numbers, tensors as raw bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.protocols.open_inference import DTYPES, OF_A_ROW, id_and_parameters
from bench.protocols.protobuf import field, fields, packed
from bench.protocols.wire import STATUS, Ask, Connection, Reply, ServerAddress, WireProtocol, unreadable, worded_error

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
CODES = {
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    409: "FAILED_PRECONDITION",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""gRPC's codes for the statuses of `STATUS`; any other is INTERNAL."""


class OpenInferenceGrpc(WireProtocol):
    """Unary calls of ModelInfer. A request's id is echoed in the message, and beside an error as metadata."""

    transport = "grpc"

    async def connect(self, at: ServerAddress) -> Connection:
        from bench.protocols.grpc import GrpcConnection  # grpcio is an extra

        if at.grpc is None:
            raise ConnectionRefusedError("the server has no port for gRPC")
        return await GrpcConnection.to(at.grpc, MODEL_INFER)

    def encode(self, ask: Ask) -> bytes:
        row = ask.observation.astype("<f4")
        tensor = input_tensor((1, len(row)))
        _, parameters = id_and_parameters(ask)
        return self.wrap(ask, request_fields([tensor], [row.tobytes()], parameters), {})

    def wrap(self, ask: Ask, payload: bytes, headers: Mapping[str, str]) -> bytes:
        """`payload` is the fields of a ModelInferRequest that say neither whom it asks nor who asks."""
        ids = b"" if ask.request_id is None else field(3, ask.request_id)
        return field(1, ask.model) + ids + payload

    def read(self, raw: Any) -> Reply:
        if not isinstance(raw, bytes):
            return _error(raw.code, raw.details, raw.metadata)
        try:
            return _reply(raw)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return unreadable(200, frozenset(), raw)

    def is_action(self, raw: Any) -> bool:
        return isinstance(raw, bytes)


def request_fields(tensors: Iterable[bytes], raw: Iterable[bytes], parameters: Mapping[str, Any]) -> bytes:
    """A ModelInferRequest without model and id. `raw` are the tensors' values."""
    found = [field(4, parameter(*entry)) for entry in parameters.items()]
    found += [field(5, tensor) for tensor in tensors]
    return b"".join([*found, *(field(7, values) for values in raw)])


def input_tensor(shape: Sequence[int], name: str | bytes = "observation", datatype: str = "FP32") -> bytes:
    """An InferInputTensor whose values are elsewhere."""
    return field(1, name) + field(2, datatype) + packed(3, shape)


def parameter(name: str, value: bool | int | float | str) -> bytes:
    """An entry of a map of parameters."""
    number = {bool: 1, int: 2, str: 3, float: 4}[type(value)]
    return field(1, name) + field(2, field(number, value))


def _reply(raw: bytes) -> Reply:
    """A ModelInferResponse, of which there is one row."""
    members: dict[int, list[Any]] = {number: [] for number in range(1, 7)}
    for number, value in fields(raw):
        members[number].append(value)
    _, (version,), given, entries, tensors, contents = members.values()
    parameters = dict(map(_parameter, entries))
    ids = frozenset((given[0].decode() if given else None, parameters.get("request_id")))
    action, n, m = (dict(_outputs(tensors, contents))[name] for name in OF_A_ROW)
    known = {"action": action, "num_candidates": int(n[0]), "num_steps": int(m[0]), "model_version": version.decode()}
    return Reply(200, ids, {**known, **parameters})


def _outputs(tensors: Sequence[bytes], contents: Sequence[bytes]) -> Iterator[tuple[str, np.ndarray]]:
    """The outputs that are read, flat."""
    for tensor, values in zip(tensors, contents, strict=True):
        members: dict[int, Any] = dict(fields(tensor))
        name = members[1].decode()
        if name in OF_A_ROW:
            yield name, np.frombuffer(values, DTYPES[members[2].decode()])


def _parameter(entry: bytes) -> tuple[str, Any]:
    members: dict[int, Any] = dict(fields(entry))
    value: Any
    ((number, value),) = fields(members[2])
    if number == 1:
        value = bool(value)
    elif number == 3:
        value = value.decode()
    return members[1].decode(), value


def _error(code: str, details: str, metadata: Mapping[str, Any]) -> Reply:
    ids = frozenset((metadata.get("x-request-id"),))
    status = STATUS.get(details.partition(": ")[0], 0)
    if CODES.get(status, "INTERNAL") != code:
        return unreadable(500, ids, f"{code}: {details}")
    return worded_error(details, ids, None, metadata.get("retry-after"))
