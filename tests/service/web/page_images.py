"""`python -m tests.service.web.page_images`: the page's pictures in docs/images, with the shipped policies.

Starts a server of deploy/policies, sends it requests of many budgets and takes the pictures meanwhile. With an argument
it uses the running server at that address instead. `make images` calls it.
"""

from __future__ import annotations

import io
import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sorl_client import Client, SorlError

from tests.service.process import served
from tests.service.web.browser import chromium, opened

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "images"
POLICY = "cube-single"
DESK = {"width": 1200, "height": 900}
PHONE = {"width": 360, "height": 780}
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESK, "color_scheme": "light"},
    "dark": {"viewport": DESK, "color_scheme": "dark"},
    "whole": {"viewport": DESK, "color_scheme": "light"},
    "phone": {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 1.5},
}
READINGS = 12  # of /stats, which the page polls, so that its plots have something to show
PAUSE = 0.03  # seconds between a reply and the next request
BUDGETS: tuple[dict[str, Any], ...] = (
    {},
    {"num_candidates": 1, "num_steps": 1},
    {"num_candidates": 4, "num_steps": 8},
    {"num_candidates": 32, "num_steps": 4},
    {"num_candidates": 64, "num_steps": 8},
    {"deadline_ms": 50},
    {"num_candidates": 256, "num_steps": 8, "deadline_ms": 20},
)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    if len(sys.argv) > 1:
        take(sys.argv[1])
        return
    with served("--model", str(ROOT / "deploy" / "policies"), "--default-model", POLICY) as server:
        server.wait_for("ready: ")
        take(f"http://127.0.0.1:{server.port}")


def take(url: str) -> None:
    """Writes docs/images/page-NAME.webp for each of `VIEWS`."""
    with traffic(url), chromium() as browser:
        for name, options in VIEWS.items():
            with opened(browser, url, **options) as (page, _):
                if page.is_visible("#model"):
                    page.select_option("#model", POLICY)
                page.locator(".cell[aria-label^='16 candidates, 8 steps'] .mark").click()
                page.click("#random")
                page.click("#send")
                page.wait_for_selector("#action")
                for _ in range(READINGS):
                    page.wait_for_event("response", lambda response: response.url.endswith("/stats"))
                if name == "phone":
                    page.evaluate("document.getElementById('reply').scrollIntoView({ behavior: 'instant' })")
                picture = Image.open(io.BytesIO(page.screenshot(full_page=name != "phone")))
                if name in ("light", "dark"):  # the policy and what compute buys: what the README shows
                    end = page.locator("#live").bounding_box()["y"] + page.evaluate("window.scrollY")
                    picture = picture.crop((0, 0, picture.width, round(end)))
                picture.save(FOLDER / f"page-{name}.webp", quality=80, method=6)


@contextmanager
def traffic(url: str) -> Iterator[None]:
    """A client that asks `POLICY` on the server at `url` for actions within every budget, while the block runs."""
    over = threading.Event()

    def ask() -> None:
        draw = np.random.default_rng(0)
        with Client(url) as client:
            model = next(model for model in client.models() if model["name"] == POLICY)
            for budget in itertools.cycle(BUDGETS):
                observation = draw.normal(model["observation_mean"], model["observation_std"])
                try:
                    client.act(observation, model=POLICY, **budget)
                except SorlError as error:
                    print(error, file=sys.stderr)
                if over.wait(PAUSE):
                    return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
