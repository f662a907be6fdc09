"""Headless Chromium for tests: `make test-all` puts it into .venv/tools/browser (chromium.sh)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = Path(__file__).parents[2] / ".venv" / "tools" / "browser" / "chromium"
WAIT_MS = 30_000


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Imported late: the quick tests are collected where Playwright is not installed."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM.exists(), f"no {CHROMIUM}: make test-all puts Chromium there"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """(page, what its console complains of): at `url`, with its figures there; `options` are Playwright's, of a context."""
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#tiles dd")
    yield page, faults
    context.close()
