"""The page's files and /stats over HTTP: headers, caching, completeness. In a browser: test_page_in_browser.py."""

from __future__ import annotations

import asyncio
import gzip
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from policy import load_policy
from service.web import page

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
WAIT = 30
FILES = [path for path in Path(page.__file__).parent.iterdir() if path.suffix in page.MEDIA_TYPES]


class Markup(HTMLParser):
    """What the page's markup refers to, and what the policy of its own forbids in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.linked: set[str] = set()
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.inputs: set[str] = set()
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        source = names.get("src") or (names.get("href") if tag == "link" else None)
        if source:
            self.linked.add(source)
        if tag == "style" or "style" in names or any(name.startswith("on") for name in names):
            self.inline.append(tag)
        if tag == "script" and "src" not in names:
            self.inline.append(tag)
        if "id" in names:
            self.ids.append(names["id"] or "")
        if tag == "label" and names.get("for"):
            self.labelled.add(names["for"] or "")
        if tag in ("input", "textarea"):
            self.inputs.add(names.get("id") or "")


async def addresses(client: httpx.AsyncClient) -> set[str]:
    """Every file that the page loads: what its markup names, and what those import."""
    found: set[str] = set()
    left = {urljoin("/", address) for address in Markup((await client.get("/")).text).linked}
    while left:
        address = left.pop()
        found.add(address)
        response = await client.get(address)
        assert response.status_code == 200, address
        if address.endswith(".js"):
            imports = re.findall(r'^import [^;]* from "([^"]+)";', response.text, re.MULTILINE)
            left |= {urljoin(address, name) for name in imports} - found
    return found


async def test_page_may_load_nothing_from_elsewhere_and_nothing_inline(serve: Any) -> None:
    async with serve() as client:
        response = await client.get("/")
        assets = [await client.get(address) for address in sorted(await addresses(client))]
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    for each in (response, *assets):
        directives = dict(part.split(" ", 1) for part in each.headers["content-security-policy"].split("; "))
        assert directives.pop("default-src") == "'none'"
        assert directives.pop("require-trusted-types-for") == "'script'"
        assert set(directives.values()) == {"'self'", "'none'"}
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["referrer-policy"] == "no-referrer"
        text = each.text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?://|innerHTML|eval\(", text)
    assert Markup(response.text).inline == []


async def test_all_files_are_reached_and_they_are_few_bytes(serve: Any) -> None:
    async with serve() as client:
        reached = await addresses(client)
        sent = [await client.get(address, headers={"accept-encoding": "gzip"}) for address in reached]
    assert {Path(address).name for address in reached} == {path.name for path in FILES} - {"index.html"}
    assert sum(path.stat().st_size for path in FILES) < 63_000
    assert sum(int(each.headers["content-length"]) for each in sent) < 24_000


async def test_all_files_are_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["service.web.page"]
    assert [path.name for path in FILES if not any(path.match(pattern) for pattern in patterns)] == []


async def test_every_control_has_a_label_and_ids_are_unique(serve: Any) -> None:
    async with serve() as client:
        markup = Markup((await client.get("/")).text)
    assert len(markup.ids) == len(set(markup.ids))
    assert markup.inputs <= markup.labelled


async def test_assets_are_kept_for_good_and_the_page_is_asked_for_again(serve: Any) -> None:
    async with serve() as client:
        first = await client.get("/")
        again = await client.get("/", headers={"if-none-match": first.headers["etag"]})
        other = await client.get("/", headers={"if-none-match": 'W/"0"'})
        asset = await client.get(sorted(await addresses(client))[0])
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert other.status_code == 200
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_compressed_only_for_those_who_can_read_it(serve: Any) -> None:
    async with serve() as client:
        for address in ("/", *await addresses(client)):
            plain = await client.get(address, headers={"accept-encoding": "identity"})
            async with client.stream("GET", address, headers={"accept-encoding": "br, gzip"}) as response:
                raw = b"".join([part async for part in response.aiter_raw()])
            assert "content-encoding" not in plain.headers
            assert response.headers["content-encoding"] == "gzip"
            assert plain.headers["vary"] == response.headers["vary"] == "Accept-Encoding"
            assert gzip.decompress(raw) == plain.content


@pytest.mark.parametrize(
    "path", ["/page/0123456789abcdef/main.js", "/page/{digest}/__init__.py", "/page/{digest}/no.js"]
)
async def test_what_is_not_of_this_page_is_not_found(serve: Any, path: str) -> None:
    async with serve() as client:
        digest = sorted(await addresses(client))[0].split("/")[2]
        response = await client.get(path.format(digest=digest))
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_head(serve: Any) -> None:
    async with serve() as client:
        response = await client.head("/")
    assert (response.status_code, response.content) == (200, b"")


async def test_stats_tell_what_was_answered_and_what_failed(serve: Any, observations: Any) -> None:
    async with serve() as client:
        for n, m in ((3, 2), (3, 2), (5, 1)):
            await client.post("/act", json={"observation": observations(1)[0], "num_candidates": n, "num_steps": m})
        await client.post("/act", json={"observation": [1.0]})
        stats = (await client.get("/stats")).json()
    assert stats["state"] == "ready"
    assert stats["queue"] == {"requests": 0, "predicted_ms": 0.0}
    rows = [(row["model"], row["num_candidates"], row["num_steps"], row["answered"]) for row in stats["budgets"]]
    assert rows == [("small", 3, 2, 2), ("small", 5, 1, 1)]
    assert stats["failed"] == {"invalid_request": 1}
    for row in stats["budgets"]:
        assert 0 < row["compute_ms"]["p50"] <= row["total_ms"]["p50"] <= row["total_ms"]["p99"]


async def test_stats_show_the_queue(serve: Any, gated: Any, observations: Any) -> None:
    make_backend, made = gated
    async with serve(make_backend) as client:
        backend = made[0]
        backend.shut()
        first, *others = observations(3)
        asking = [asyncio.ensure_future(client.post("/act", json={"observation": first}))]
        assert await asyncio.to_thread(backend.entered.acquire, timeout=WAIT)
        asking += [asyncio.ensure_future(client.post("/act", json={"observation": row})) for row in others]
        scheduler = client.app.state.runtime.scheduler
        while scheduler.queued < 2:
            await asyncio.sleep(0)
        stats = (await client.get("/stats")).json()
        backend.gate.set()
        await asyncio.gather(*asking)
    assert stats["queue"]["requests"] == 2
    assert stats["queue"]["predicted_ms"] > 0


async def test_predictions_are_those_that_admission_uses(serve: Any) -> None:
    async with serve() as client:
        cost_ms = (await client.get("/stats")).json()["models"]["small"]["cost_ms"]
        model = client.app.state.runtime.catalog.find("small")
    for n, m in ((1, 1), (8, 4), (300, 2)):
        estimate = model.engine.cost.estimate(1, n, m)
        ours = cost_ms["request"] + n * (cost_ms["candidate"] + m * cost_ms["step"])
        assert ours == pytest.approx((estimate.per_call + estimate.seconds()) * 1e3)


async def test_models_show_the_statistics_that_likely_observations_are_drawn_from(serve: Any, checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    async with serve() as client:
        model = (await client.get("/models/small")).json()
    assert model["observation_mean"] == policy.observation_mean.tolist()
    assert model["observation_std"] == policy.observation_std.tolist()
