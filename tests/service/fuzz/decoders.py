"""Everything that turns bytes of others into values: what reads them, what it may raise, and what to give it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from service.access.key_source import KeysError, KeySource
from service.errors import ServiceError
from service.grpc import infer
from service.protocol import (
    ActRequest,
    codec,
    groot,
    open_inference,
    openpi,
    openvla,
    parse_act,
    parse_request_id,
    row_seeds,
)
from service.recording.format import Record, RecordingError, read_recording
from service.web.problem import problem_reply
from tests.service.fuzz import corpus
from tests.service.fuzz.mutation import changed_trees, damaged, inputs, odd_values, to_json, to_msgpack, tree


@dataclass(frozen=True)
class Decoder:
    """Bytes to values.

    Attributes:
        name: what it is.
        read: all that happens to the bytes before anything is computed. Returns False where it refused them with an
            error of the right type, whose reply it has encoded too.
        inputs: what to give it.
        valid: inputs that it must accept.
    """

    name: str
    read: Callable[[bytes], bool]
    inputs: st.SearchStrategy[bytes]
    valid: tuple[bytes, ...]


def answering(read: Callable[[bytes], ActRequest | None], refuse: Callable[[ServiceError], object]) -> Any:
    """`Decoder.read` of a protocol. `read` returns None for what asks for no action."""

    def accepted(data: bytes) -> bool:
        try:
            request = read(data)
            if request is not None:
                check(request)
            return True
        except ServiceError as error:
            if error.status >= 500:
                raise
            refuse(error)
            return False

    return accepted


def check(request: ActRequest) -> None:
    """What the rest of the server relies on. Raises ServiceError for seeds that are not one a row."""
    observation = request.observation
    parts = observation.values() if isinstance(observation, Mapping) else [observation]
    for part in parts:
        assert part.dtype == np.float32
        assert part.ndim == 1 if request.single else part.ndim == 2
        assert part.size
        assert np.isfinite(part).all()
    rows = 1 if request.single else len(next(iter(parts)))
    seeds = row_seeds(0 if request.seed is None else request.seed, rows)
    assert seeds.dtype == np.uint64
    assert seeds.shape == (rows,)
    assert request.temperature is None or 0 <= request.temperature <= 2
    assert request.deadline_ms is None or request.deadline_ms > 0


def problem(error: ServiceError) -> None:
    json.loads(problem_reply(error, "r").body)


def act_json(data: bytes) -> ActRequest:
    fields = codec.decode(data, codec.JSON)
    if openvla.is_text(fields):
        fields = openvla.from_text(fields)
    codec.spoken(fields)
    parse_request_id(fields.get("request_id"))
    return parse_act(fields, codec.JSON)


def act_msgpack(data: bytes) -> ActRequest:
    fields = codec.decode(data, codec.MSGPACK)
    codec.spoken(fields)
    parse_request_id(fields.get("request_id"))
    return parse_act(fields, codec.MSGPACK)


def session(form: openpi.Form) -> Any:
    """A frame of a session of either form."""

    def read(frame: bytes) -> ActRequest | None:
        return None if form.control_reply(frame) is not None else openpi.parse(form.fields(frame))

    return answering(read, form.refused)


def infer_http(data: bytes) -> ActRequest:
    """`data` is the header that says where the JSON ends (empty: none), a line's end, and the body."""
    header, _, body = data.partition(b"\n")
    members, tail = open_inference.decode(body, header.decode("latin-1") or None)
    parse_request_id(members.get("id") or None)
    return infer_request(open_inference.parse_infer(members, tail), codec.JSON)


def infer_grpc(data: bytes) -> ActRequest:
    message = infer.decode(data)
    parse_request_id(message.id or None)
    return infer_request(infer.parse_infer(message), codec.MSGPACK)


def infer_request(request: open_inference.InferRequest, media_type: str) -> ActRequest:
    return parse_act(request.act_fields("small", None, "r"), media_type)


def groot_frame(frame: bytes) -> ActRequest | None:
    call = groot.parse_call([frame], 1 << 20)
    if call.endpoint != groot.GET_ACTION:
        groot.check_endpoint(call.endpoint)
        groot.model_name(call.data)
        return None
    fields = groot.act_fields(call.data)
    parse_request_id(fields.get("request_id"))
    return groot.parse_get_action(fields)


_MEMORY = Path("/dev/shm")  # files there cost no disk; without it they are where temporary files are


def of_file(read: Callable[[Path], object], refused: type[Exception]) -> Callable[[bytes], bool]:
    """`Decoder.read` of a file's content."""

    def accepted(data: bytes) -> bool:
        with tempfile.NamedTemporaryFile(dir=_MEMORY if _MEMORY.is_dir() else None) as file:
            file.write(data)
            file.flush()
            try:
                read(Path(file.name))
            except refused:
                return False
        return True

    return accepted


def read_records(path: Path) -> None:
    """What is accepted could have been recorded, and is written as it was read."""
    for record in read_recording(path).records:
        again = Record.from_json(json.loads(record.to_json()))
        assert again.to_json() == record.to_json()
        for array in (record.request.observation, record.action, record.q):
            assert np.isfinite(array).all()
        assert 0 < record.request.num_candidates < 2**31
        assert 0 < record.request.num_steps < 2**31
        assert 0 <= record.request.temperature <= 2


def as_text(value: Any) -> bytes:
    """A tree as OpenVLA's client sends it."""
    return json.dumps({"encoded": to_json(value).decode("utf-8", "surrogateescape")}).encode()


def as_body(members: Any) -> bytes:
    """What `infer_http` reads, of a body that is JSON."""
    return b"\n" + to_json(members)


def as_lines(value: Any) -> bytes:
    """A recording whose first record is a tree."""
    lines = [tree(corpus.RECORDING_HEAD), value, tree(corpus.RECORDS[1])]
    return b"".join(to_json(line) + b"\n" for line in lines)


def as_groot_file(as_npy: bytes) -> bytes:
    state = {"state": {"__ndarray_class__": True, "as_npy": as_npy}}
    return to_msgpack(tree(corpus.groot_call(state)))


def with_header(json_part: bytes, tail: bytes) -> bytes:
    return b"%d\n" % len(json_part) + json_part + tail


@st.composite
def infer_binary(draw: st.DrawFn) -> bytes:
    """Changed messages with bytes behind them: right or wrong ones, by a right or wrong header."""
    written = to_json(draw(changed_trees(corpus.INFER_BINARY, corpus.INFER_NAMES)))
    tail = draw(st.sampled_from([corpus.INFER_TAIL] * 3 + [b""]) | st.binary(max_size=40))
    length = b"%d" % (len(written) + draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1, 24])))
    wrong = [b"-1", b"0", b"9" * 5000, b"\xb2", b" 5", b"0x5", b"1e1", b""]
    return draw(st.sampled_from([length] * 8 + wrong)) + b"\n" + written + tail


_SHAPES = ["2, 1, 3", "6,", "", "3L,", "-6,", "True, 6", "6.0,", "9" * 30 + ",", "(" * 150 + ")" * 150, "2**9,", "*a"]


@st.composite
def npy_files(draw: st.DrawFn) -> bytes:
    """Headers in Python's syntax, or nearly, of a right or wrong length, and of any version of the format."""
    header = {
        "descr": draw(st.sampled_from(["'<f4'"] * 3) | odd_values.map(repr)),
        "fortran_order": draw(st.sampled_from(["False", "True"]) | odd_values.map(repr)),
        "shape": "(" + draw(st.sampled_from(_SHAPES)) + ")",
    }
    text = "{" + ", ".join(f"{name!r}: {value}" for name, value in header.items()) + "}"
    whole = st.just(text.encode("utf-8", "surrogatepass"))
    encoded = draw(whole | damaged(whole, [b"()", b"[", b"\\d", b"L", b"1if", b"'''", b"\n", b"0777", b"#"])) + b"\n"
    version = draw(st.sampled_from([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\0\0"]))
    length = max(0, len(encoded) + draw(st.sampled_from([0, 0, 0, 0, 1, -1, 60_000])))
    size = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + (length % 2**16).to_bytes(size, "little") + encoded + corpus.ROWS.tobytes()


_JSON = [
    b'"',
    b"\\",
    b"[",
    b"{",
    b"}",
    b",",
    b":",
    b"NaN",
    b"1e999",
    b"-",
    b"\xff",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"null",
]
_MSGPACK = [bytes([first]) for first in (*range(0xC0, 0xE0), 0x80, 0x90, 0xA0, 0xFF)]
_TOML = [
    b"[", b"]", b"[[", b"{", b"}", b"=", b"'", b'"', b'"""', b"'''", b"\n", b"\r", b".", b"#", b",", b"nan", b"-inf",
    b"1e999", b"0x", b"1979-05-27", b"1979-02-31T25:61:00Z", b"\\uD800", b"\\x", b"_", b"roles", b"sha256", b"a = ",
    b"9" * 5000, b"[" * 2000, b"{a=" * 2000, b"a." * 2000, b"true", b"\xff", b"\xef\xbb\xbf",
]  # fmt: skip


def in_json(
    messages: Sequence[Any], names: Sequence[str | bytes] = corpus.ACT_NAMES, write: Callable[[Any], bytes] = to_json
) -> st.SearchStrategy[bytes]:
    return inputs(changed_trees(messages, names), write, _JSON)


def in_msgpack(messages: Sequence[Any], *names: str | bytes) -> st.SearchStrategy[bytes]:
    return inputs(changed_trees(messages, [*corpus.ACT_NAMES, *names]), to_msgpack, _MSGPACK)


def written(write: Callable[[Any], bytes], messages: Sequence[Any]) -> tuple[bytes, ...]:
    return tuple(write(tree(message)) for message in messages)


ALL = (
    Decoder("POST /act, JSON", answering(act_json, problem), in_json(corpus.ACT), written(to_json, corpus.ACT)),
    Decoder(
        "POST /act, msgpack",
        answering(act_msgpack, problem),
        in_msgpack(corpus.ACT_MSGPACK),
        written(to_msgpack, corpus.ACT_MSGPACK),
    ),
    Decoder(
        "OpenVLA and json-numpy",
        answering(act_json, problem),
        in_json(corpus.ACT_JSON_NUMPY) | in_json([*corpus.ACT_JSON_NUMPY, *corpus.ACT], write=as_text),
        written(to_json, corpus.ACT_JSON_NUMPY) + written(as_text, corpus.ACT_JSON_NUMPY),
    ),
    Decoder(
        "openpi", session(openpi.OPENPI), in_msgpack(corpus.OPENPI, "__ctrl__"), written(to_msgpack, corpus.OPENPI)
    ),
    Decoder(
        "vLLM-Omni",
        session(openpi.VLLM_OMNI),
        in_msgpack(corpus.VLLM_OMNI, "endpoint", "sampling_params", "num_inference_steps"),
        written(to_msgpack, corpus.VLLM_OMNI),
    ),
    Decoder(
        "Open Inference, JSON",
        answering(infer_http, open_inference.encode_error),
        in_json(corpus.INFER, corpus.INFER_NAMES, as_body),
        written(as_body, corpus.INFER),
    ),
    Decoder(
        "Open Inference, binary",
        answering(infer_http, open_inference.encode_error),
        st.one_of(infer_binary(), infer_binary(), damaged(infer_binary(), _JSON)),
        tuple(with_header(body, corpus.INFER_TAIL) for body in written(to_json, corpus.INFER_BINARY)),
    ),
    Decoder(
        "Open Inference, gRPC",
        answering(infer_grpc, open_inference.error_text),
        damaged(st.sampled_from(corpus.infer_grpc())) | st.binary(max_size=200),
        tuple(corpus.infer_grpc()),
    ),
    Decoder(
        "GR00T and .npy",
        answering(groot_frame, lambda error: groot.error_reply(error, "r")),
        in_msgpack(corpus.GROOT, *corpus.GROOT_NAMES) | npy_files().map(as_groot_file),
        written(to_msgpack, corpus.GROOT),
    ),
    Decoder(
        "keys file",
        of_file(lambda path: KeySource(file=path).read(), KeysError),
        damaged(st.sampled_from(corpus.KEYS), _TOML) | st.binary(max_size=200),
        tuple(corpus.KEYS),
    ),
    Decoder(
        "recording",
        of_file(read_records, RecordingError),
        in_json(corpus.RECORDS, list(corpus.RECORDS[0]), as_lines),
        written(as_lines, corpus.RECORDS),
    ),
)
DECODERS = {decoder.name: decoder for decoder in ALL}
