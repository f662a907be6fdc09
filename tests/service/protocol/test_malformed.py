"""Requests that must not get in: each its own 4xx, code and field, while valid ones beside them are undisturbed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.protocol import ActRequest, codec, parse_act

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}
OK = [0.5, -1.0, 0.25, 0.0, 2.0, 1.5]  # obs_dim 6


class Bad(NamedTuple):
    kind: str
    body: bytes
    code: str = "invalid_request"
    field: str | None = None
    headers: dict[str, str] = JSON


STATUS = {
    "invalid_request": 422,
    "budget_too_large": 422,
    "unknown_model": 404,
    "version_gone": 409,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
}


def fields(**changes: Any) -> bytes:
    return json.dumps({"observation": OK, **changes}).encode()


def text(field: str, token: str) -> bytes:
    return f'{{"observation": {OK}, "{field}": {token}}}'.encode()


def array(**changes: Any) -> dict[str, Any]:
    data = base64.b64encode(np.array(OK, "<f4").tobytes()).decode()
    return {"__numpy__": data, "dtype": "<f4", "shape": [6], **changes}


def packed(**changes: Any) -> bytes:
    value: bytes = msgpack.packb({"observation": OK, **changes})
    return value


def malformed() -> Iterator[Bad]:
    """Every kind several times, with other values each."""
    for width in (1, 2, 3, 4, 5, 7, 8, 28, 100, 1000):
        yield Bad("wrong obs_dim", fields(observation=[0.0] * width), field="observation")
        yield Bad("wrong obs_dim, rows", fields(observation=[[0.0] * width] * 2), field="observation")
    for token in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e39"):
        yield Bad("not finite", f'{{"observation": [0, 1, 2, {token}, 4, 5]}}'.encode(), field="observation")
        yield Bad("not finite", text("temperature", token), field="temperature")
        yield Bad("not finite", text("deadline_ms", token), field="deadline_ms")
    for odd in ("1.5", "abc", None, True, False, {}, [[1.0]], {"a": 1}):
        yield Bad("observation of non-numbers", fields(observation=[*OK[:5], odd]), field="observation")
        yield Bad("observation of a wrong type", fields(observation=odd if odd != {} else 5), field="observation")
    for name in ("num_candidates", "num_steps", "priority", "temperature", "deadline_ms"):
        for odd in ("4", True, [1], {"n": 1}, -3):
            yield Bad("number of a wrong type or sign", fields(**{name: odd}), field=name)
    for huge in (4097, 10**6, 2**31, 2**63, 10**30, 10**300):
        yield Bad("huge N", fields(num_candidates=huge), "budget_too_large", "num_candidates")
        yield Bad("huge M", fields(num_steps=huge), "budget_too_large", "num_steps")
    for name in ("num_candidates", "num_steps"):
        for odd in (0, -1, -(10**30), 1.5):
            yield Bad("N or M below 1", fields(**{name: odd}), field=name)
    for seed in (-1, 1.5, True, "abc", "-1", str(2**64), 2**53 + 1, 2**64, [1, 2], [], [-1], {"seed": 1}):
        yield Bad("bad seed", fields(seed=seed), field="seed")
    for depth in (2, 3, 10, 100, 500, 50_000):
        nested = "[" * depth + "1" + "]" * depth
        yield Bad("deep nesting", f'{{"observation": {nested}}}'.encode(), field="observation" if depth < 1e3 else None)
    yield Bad("deep nesting", b"[" * 200_000)
    yield Bad("deep nesting", b"\x91" * 5000, headers=MSGPACK)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "x", ""):
        yield Bad("wrong type", fields(), "unsupported_media_type", "Content-Type", {"content-type": kind})
    for kind in ("gzip", "br", "zstd"):
        yield Bad(
            "compressed", fields(), "unsupported_media_type", "Content-Encoding", {**JSON, "content-encoding": kind}
        )
    for headers in (JSON, MSGPACK):
        yield Bad("empty", b"", headers=headers)
    for broken in (b"{", b"}", b"nonsense", b'{"observation": [1, 2', b"{'observation': []}", b"{}{}", fields() + b"!"):
        yield Bad("broken JSON", broken)
    for other in (b"[]", b"null", b"5", b'"observation"', b"true"):
        yield Bad("not an object", other)
    for value in ("?", "AAA", "AAAA", "ÄÖ==", "=", 5, None, ["AA"]):
        yield Bad("bad base64", fields(observation=array(__numpy__=value)), field="observation")
    for dtype in ("<f8", "|O", "<c8", "S4", "<M8[s]", "V4", "f4,f4", "float99", "", None, 4):
        yield Bad("wrong dtype", fields(observation=array(dtype=dtype)), field="observation")
    for shape in ([5], [2, 3, 1], [-6], ["6"], [6.0], 6, None, [10**30], [6, 0]):
        yield Bad("wrong shape", fields(observation=array(shape=shape)), field="observation")
    for name in ("obs", "observations", "Observation", "n", "num_candidate", "__class__", "", "\ud800", "x" * 10_000):
        yield Bad("unknown field", fields(**{name: 1}), field=name)
    yield Bad("missing field", b"{}", field="observation")
    yield Bad("missing field", b'{"num_steps": 1}', field="observation")
    for name in ("cube", "Small", " ", "../small"):
        yield Bad("wrong model", fields(model=name), "unknown_model", "model")
    for name in (5, ["small"], "x" * 300):
        yield Bad("model of a wrong type", fields(model=name), field="model")
    for version in ("0" * 64, "latest", ""):
        yield Bad("wrong version", fields(model_version=version), "version_gone", "model_version")
    for junk in (b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80"):
        yield Bad("invalid UTF-8", b'{"observation": [1], "model": "' + junk + b'"}')
        yield Bad("invalid UTF-8", b"\x81\xa5model" + bytes([0xA0 + len(junk)]) + junk, headers=MSGPACK)
    yield Bad("UTF-16", fields().decode().encode("utf-16"))
    for cut in (1, 5, 13, 20, len(packed()) - 1):
        yield Bad("truncated msgpack", packed()[:cut], headers=MSGPACK)
    yield Bad("msgpack with more behind it", packed() + b"\x00", headers=MSGPACK)
    yield Bad("msgpack with a huge length", b"\x81\xabobservation\xdd\xff\xff\xff\xff", headers=MSGPACK)
    yield Bad("msgpack extension", packed(seed=msgpack.ExtType(5, b"x")), field="seed", headers=MSGPACK)
    yield Bad("msgpack bytes", packed(observation=b"\0" * 24), field="observation", headers=MSGPACK)
    for twice in ("observation", "seed", "zzz"):
        yield Bad("duplicate field", f'{{"{twice}": 1, "{twice}": 1}}'.encode(), field=twice)
    for name in ("a b", "", "ü", "x" * 129, "a\nb", 7, ["a"]):
        yield Bad("bad request_id", fields(request_id=name), field="request_id")
    yield Bad("bad request id header", fields(), field="X-Request-ID", headers={**JSON, "x-request-id": "a b"})
    for temperature in (-0.1, 2.1, 1e300):
        yield Bad("temperature out of range", fields(temperature=temperature), field="temperature")
    for deadline in (0, -5, 1e18):
        yield Bad("deadline out of range", fields(deadline_ms=deadline), field="deadline_ms")
    for late in ("wait", "", 1):
        yield Bad("unknown on_late", fields(on_late=late), field="on_late")
    for quality in (-0.1, 1.01, 90):
        yield Bad("quality out of range", fields(min_quality=quality), field="min_quality")
    for rows in (65, 200):
        yield Bad("too many rows", fields(observation=[OK] * rows), field="observation")
    for ragged in ([OK, OK[:5]], [OK, 5], [OK, []], [[], OK], [OK, None], [OK, "x"]):
        yield Bad("ragged rows", fields(observation=ragged), field="observation")
    for none in ([], [[]], [[], []]):
        yield Bad("empty observation", fields(observation=none), field="observation")
    yield Bad("long integer", f'{{"observation": [{"9" * 5000}]}}'.encode())
    yield Bad("larger than the limit", fields(model="x" * 2_000_000), "payload_too_large")


async def test_each_gets_its_own_error_beside_undisturbed_neighbours(
    serve: Any, observations: Callable[[int], list[list[float]]]
) -> None:
    cases = list(malformed())
    assert len(cases) >= 200
    assert len({case.kind for case in cases}) >= 20
    rows = observations(8)
    async with serve() as client:

        async def valid(number: int) -> list[float]:
            response = await client.post("/act", json={"observation": rows[number % 8], "seed": number % 8})
            assert response.status_code == 200, response.text
            action: list[float] = response.json()["action"]
            return action

        async def invalid(case: Bad) -> str | None:
            response = await client.post("/act", content=case.body, headers=case.headers)
            problem = response.json()
            right = (
                problem.get("code") == case.code
                and response.status_code == problem["status"] == STATUS[case.code]
                and response.headers["content-type"] == "application/problem+json"
                and problem.get("field") == case.field
                and "Traceback" not in response.text
            )
            return None if right else f"{case.kind}: {case.body[:80]!r} -> {response.text[:300]}"

        undisturbed = [await valid(number) for number in range(8)]
        for start in range(0, len(cases), 32):
            part = cases[start : start + 32]
            replies = await asyncio.gather(
                *(f(x) for c in enumerate(part) for f, x in ((invalid, c[1]), (valid, c[0])))
            )
            assert [wrong for wrong in replies[::2] if wrong is not None] == []
            for number, action in enumerate(replies[1::2]):
                np.testing.assert_allclose(action, undisturbed[number % 8], atol=1e-5)


@pytest.mark.parametrize("declared", [True, False])
async def test_100_mb_are_refused_without_being_read(serve: Any, declared: bool) -> None:
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1600):
            taken += 65_536
            yield b" " * 65_536

    headers = {**JSON, "content-length": str(1600 * 65_536)} if declared else JSON
    async with serve() as client:
        response = await client.post("/act", content=body(), headers=headers)
        assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert taken <= (0 if declared else (1 << 20) + 2 * 65_536)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("GET", "/act", 405, "method_not_allowed"),
        ("DELETE", "/models", 405, "method_not_allowed"),
        ("GET", "/models/%F0%9F%A6%BE", 404, "unknown_model"),
    ],
)
async def test_framework_errors_are_problems_too(serve: Any, method: str, path: str, status: int, code: str) -> None:
    async with serve() as client:
        response = await client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == response.json()["request_id"]


DEEP = 1000  # about the interpreter's recursion limit, and within what the decoders of JSON and msgpack accept


class Encoded(NamedTuple):
    """A value in both formats. Written by hand where it is deep: the encoders give up before the decoders do."""

    json: bytes
    msgpack: bytes

    @classmethod
    def of(cls, value: Any) -> Encoded:
        text = json.dumps(value, default=lambda item: item.hex(), skipkeys=True)
        return cls(text.encode(), msgpack.packb(value))

    def nested(self, depth: int) -> Encoded:
        """In so many lists."""
        return Encoded(b"[" * depth + self.json + b"]" * depth, b"\x91" * depth + self.msgpack)


def mapping(members: dict[str, Encoded]) -> Encoded:
    """An object of up to 15 members."""
    text = b",".join(json.dumps(name).encode() + b":" + value.json for name, value in members.items())
    packed = b"".join(msgpack.packb(name) + value.msgpack for name, value in members.items())
    return Encoded(b"{" + text + b"}", bytes([0x80 | len(members)]) + packed)


some = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3)
some |= st.binary(max_size=3)
keys = st.text(max_size=3)
values = st.recursive(some, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
encoded = st.builds(Encoded.of, values) | st.builds(Encoded.nested, st.builds(Encoded.of, values), st.integers(1, DEEP))
arrays = st.fixed_dictionaries({name: encoded for name in ("__ndarray__", "data", "dtype", "shape")}).map(mapping)
patient = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(st.sampled_from([*ActRequest.model_fields, "unknown"]), encoded | arrays, st.booleans())
def test_no_value_of_a_field_is_a_fault_of_the_server(field: str, value: Encoded, pack: bool) -> None:
    """However deep, large or odd a value is, it is accepted or refused by an InvalidRequest."""
    body = mapping({"observation": Encoded.of(OK), field: value})
    media_type = codec.MSGPACK if pack else codec.JSON
    with contextlib.suppress(InvalidRequest):
        parse_act(codec.decode(body.msgpack if pack else body.json, media_type), media_type)


@pytest.mark.parametrize("depth", [10, 100, 500, 900, 990, DEEP])
async def test_a_deeply_nested_row_is_refused_by_name(serve: Any, depth: int) -> None:
    row = Encoded.of(0.0).nested(depth)
    for head, body in (
        (JSON, b'{"observation": [[0.0], [0.0, ' + row.json + b"]]}"),
        (MSGPACK, b"\x81\xabobservation\x92\x91\x00\x92\x00" + row.msgpack),
    ):
        async with serve() as client:
            response = await client.post("/act", content=body, headers=head)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
