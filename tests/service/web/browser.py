"""Headless Chromium for tests: `make test-all` puts it into .venv/tools/browser (chromium.sh)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = Path(__file__).parents[3] / ".venv" / "tools" / "browser" / "chromium"
WAIT_MS = 30_000

# Of every element with text of its own that is seen: its colour, and that of what it is on.
_COLOURS = r"""() => {
  const ground = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? ground(e.parentElement) : colour;
  };
  return [...document.body.querySelectorAll("*")]
    .filter((e) => [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()))
    .filter((e) => e.tagName !== "title" && e.getClientRects().length)
    .map((e) => [getComputedStyle(e)[e.ownerSVGElement ? "fill" : "color"], ground(e), e.textContent.slice(0, 40)]);
}"""


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
    """(page, what its console complains of), the page at `url` with its figures there; `options` are of a context."""
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


def contrasts(page: Any) -> list[tuple[float, str]]:
    """(contrast, text) of every text that is seen, as WCAG 2 defines contrast: from 1 to 21."""

    def luminance(colour: str) -> float:
        channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    found = []
    for colour, ground, text in page.evaluate(_COLOURS):
        low, high = sorted((luminance(colour), luminance(ground)))
        found.append(((high + 0.05) / (low + 0.05), text))
    return found
