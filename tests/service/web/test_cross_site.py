"""What pages of other sites may do: with the headers that browsers send."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from service.settings import load_settings
from tests.service.listening import listening

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]
KEY = {"authorization": "Bearer sesame"}
HERE, THERE = "http://sorl", "https://evil.example"


FOREIGN = pytest.mark.parametrize(
    "headers",
    [
        {"origin": THERE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},  # a form of another site
        {"origin": "http://other.sorl", "sec-fetch-site": "same-site"},  # a sister domain
        {"origin": THERE},  # a browser that knows no Sec-Fetch-Site
        {"origin": "null", "sec-fetch-site": "cross-site"},  # a sandboxed frame
        {"origin": "null"},  # a page from a file
        {"origin": "http://sorl:8001"},  # another server on this host
        {"origin": "http://sorl.evil.example"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
    ],
)


@FOREIGN
async def test_admin_calls_of_other_sites_are_refused_whatever_key_they_bring(
    serve: Any, headers: dict[str, str]
) -> None:
    async with serve(admin_key="sesame") as client:
        for path in ("/models/small/reload", "/models/none/reload"):
            response = await client.post(path, headers={**KEY, **headers})
            assert (response.status_code, response.json()["code"]) == (403, "cross_site")


@pytest.mark.parametrize(
    "headers",
    [
        {},  # curl, sorl_client
        {"origin": HERE, "sec-fetch-site": "same-origin"},
        {"origin": HERE},
        {"origin": "https://sorl", "sec-fetch-site": "same-origin"},  # a proxy has ended TLS
        {"origin": "http://SORL"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_admin_calls_from_here_need_a_key_only(serve: Any, headers: dict[str, str]) -> None:
    async with serve(admin_key="sesame") as client:
        assert (await client.post("/models/small/reload", headers=headers)).status_code == 401
        assert (await client.post("/models/small/reload", headers={**KEY, **headers})).status_code == 200


INFER = {"inputs": [{"name": "observation", "shape": [1, 6], "datatype": "FP32", "data": [0.0] * 6}]}


@FOREIGN
async def test_inference_for_other_sites_is_refused_unless_they_are_named(serve: Any, headers: dict[str, str]) -> None:
    """A form may post to /v2 without a preflight: its body needs no Content-Type that a form can't send."""
    async with serve() as client:
        response = await client.post("/v2/models/small/infer", json=INFER, headers=headers)
        assert (response.status_code, "cross_site" in response.json()["error"]) == (403, True)
        assert (await client.post("/v2/models/small/infer", json=INFER)).status_code == 200
    async with serve(cors_origins=(THERE,)) as client:
        named = headers.get("origin") == THERE
        response = await client.post("/v2/models/small/infer", json=INFER, headers=headers)
        assert response.status_code == (200 if named else 403)


@pytest.mark.slow
async def test_websockets_for_other_sites_are_refused_unless_they_are_named(make_settings: Any) -> None:
    async def greeted(server: Any, origin: str | None) -> bool:
        address = f"ws://127.0.0.1:{server.port}/openpi"
        async with connect(address, origin=origin and Origin(origin), compression=None) as client:
            return bool(await client.recv())

    async with listening(make_settings()) as server:
        assert await greeted(server, None)
        assert await greeted(server, f"http://127.0.0.1:{server.port}")
        for origin in (THERE, "null", "http://127.0.0.1:1"):
            with pytest.raises(InvalidStatus) as refused:
                await greeted(server, origin)
            assert refused.value.response.status_code == 403
            assert b"cross_site" in refused.value.response.body
    async with listening(make_settings(cors_origins=(THERE,))) as server:
        assert await greeted(server, THERE)


PREFLIGHT = {
    "origin": "https://a.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


async def test_without_origins_no_page_of_another_site_may_ask(serve: Any, observations: Rows) -> None:
    """The browser asks before it sends JSON or msgpack, and is told nothing that would let it."""
    async with serve() as client:
        preflight = await client.options("/act", headers=PREFLIGHT)
        answer = await client.post("/act", json={"observation": observations(1)[0]}, headers=PREFLIGHT)
        plain = await client.post("/act", content="{}", headers={**PREFLIGHT, "content-type": "text/plain"})
    assert preflight.status_code == 405
    assert plain.status_code == 415  # the only types that browsers send without asking before
    for response in (preflight, answer, plain):
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_named_origins_may_ask_and_read_the_answer(serve: Any, observations: Rows) -> None:
    body = {"observation": observations(1)[0]}
    async with serve(cors_origins=("https://a.example", "http://b.example:3000"), api_key="sesame") as client:
        for origin in ("https://a.example", "http://b.example:3000"):
            preflight = await client.options("/act", headers={**PREFLIGHT, "origin": origin})
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == origin
            assert "POST" in preflight.headers["access-control-allow-methods"]
            allowed = preflight.headers["access-control-allow-headers"].lower()
            wanted = {"authorization", "content-type", "x-request-id", "inference-header-content-length"}
            assert wanted <= set(allowed.split(", "))
            answer = await client.post("/act", json=body, headers={**KEY, "origin": origin})
            refused = await client.post("/act", json=body, headers={"origin": origin})
            models = await client.get("/models", headers={"origin": origin})
            assert [response.status_code for response in (answer, refused, models)] == [200, 401, 200]
            for response in (answer, refused, models):
                assert response.headers["access-control-allow-origin"] == origin
                assert "access-control-allow-credentials" not in response.headers
            exposed = answer.headers["access-control-expose-headers"].lower()
            assert set(exposed.split(", ")) == {"inference-header-content-length", "retry-after", "x-request-id"}


async def test_a_named_origin_may_send_tensors_in_binary_and_read_the_reply(serve: Any, observations: Rows) -> None:
    tensor = {"name": "observation", "datatype": "FP32", "shape": [1, 6], "parameters": {"binary_data_size": 24}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = head + np.array(observations(1), np.float32).tobytes()
    sent = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    asked = {**PREFLIGHT, "access-control-request-headers": ",".join(sent)}
    async with serve(cors_origins=("https://a.example",)) as client:
        assert (await client.options("/v2/models/small/infer", headers=asked)).status_code == 200
        reply = await client.post(
            "/v2/models/small/infer", content=body, headers={**sent, "origin": "https://a.example"}
        )
    assert reply.status_code == 200
    length = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.content[:length])["outputs"][0]["name"] == "action"


async def test_other_origins_may_not(serve: Any, observations: Rows) -> None:
    async with serve(cors_origins=("https://a.example",)) as client:
        for origin in (THERE, "http://a.example", "https://a.example.evil.example", "null"):
            preflight = await client.options("/act", headers={**PREFLIGHT, "origin": origin})
            assert preflight.status_code == 400
            answer = await client.post("/act", json={"observation": observations(1)[0]}, headers={"origin": origin})
            for response in (preflight, answer):
                assert "access-control-allow-origin" not in response.headers


async def test_a_named_origin_makes_no_admin_calls(serve: Any) -> None:
    async with serve(cors_origins=("https://a.example",), admin_key="sesame") as client:
        headers = {**KEY, "origin": "https://a.example", "sec-fetch-site": "cross-site"}
        assert (await client.post("/models/small/reload", headers=headers)).json()["code"] == "cross_site"


def test_origins_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    origins = ("https://a.example", "http://localhost:3000", "http://[::1]:3000")
    assert load_settings(["--cors-origins", ",".join(origins)]).cors_origins == origins
    monkeypatch.setenv("SORL_CORS_ORIGINS", ", ".join(origins))
    assert load_settings([]).cors_origins == origins


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "a.example",
        "https://a.example/",
        "https://*.example",
        "https://A.example",
        "https://u@a.example",
        "https://",
        "https://a.example:http",
        "ftp://a.example",
        "null",
        "",
    ],
)
def test_what_no_browser_sends_is_no_origin(origin: str) -> None:
    with pytest.raises(ValueError, match="cors_origins: expected origins as browsers send them"):
        load_settings(["--cors-origins", origin])
