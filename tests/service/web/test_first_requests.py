"""First requests cost no more than later ones: what a framework leaves to them is done before the server is ready."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import fastapi.routing
import pytest

from tests.rooms import ROOT

REQUESTS = ["GET /models", "GET /metrics", "GET /readyz", "GET /stats", "GET /", "GET /v2", "POST /models/small/reload"]


@pytest.mark.anyio
async def test_routes_are_complete_before_the_first_request(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    build = fastapi.routing.get_dependant

    def counting(*arguments: Any, **options: Any) -> Any:
        built.append(options.get("path", ""))
        return build(*arguments, **options)

    monkeypatch.setattr(fastapi.routing, "get_dependant", counting)
    async with serve(admin_key="sesame") as client:
        assert built  # while the application was made
        built.clear()
        for request in REQUESTS:
            method, path = request.split()
            reply = await client.request(method, path, headers={"Authorization": "Bearer sesame"})
            assert reply.status_code < 500, request
        assert built == []


@pytest.mark.slow
def test_first_requests_import_nothing() -> None:
    """In a process of its own, as pytest has imported half of it here."""
    program = f"""
import asyncio, sys
import httpx
from service.app import create_app
from service.settings import Settings

async def main():
    app = create_app(Settings(backend="reference", admin_key="sesame"))
    async with app.router.lifespan_context(app):
        await app.state.runtime.lifecycle.settled()
        (model,) = app.state.runtime.catalog
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sorl") as client:
            before = set(sys.modules)
            for request in {REQUESTS!r}:
                method, path = request.replace("small", model.name).split()
                reply = await client.request(method, path, headers={{"Authorization": "Bearer sesame"}})
                assert reply.status_code == 200, (request, reply.text)
            print(sorted(set(sys.modules) - before))

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
