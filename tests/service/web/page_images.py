"""docs/images/page-*.webp, taken anew: `python -m tests.service.page_images URL`, of a server with some traffic."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from tests.service.web.browser import chromium, opened

FOLDER = Path(__file__).parents[3] / "docs" / "images"
DESK = {"width": 1200, "height": 900}
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESK, "color_scheme": "light"},
    "dark": {"viewport": DESK, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 780}, "color_scheme": "light", "device_scale_factor": 1.5},
}
READINGS = 12  # of the queue, for a trace to look at


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with chromium() as browser:
        for name, options in VIEWS.items():
            with opened(browser, sys.argv[1], **options) as (page, _):
                page.locator(".cell[aria-label^='32 candidates, 4 steps'] .mark").click()
                page.click("#random")
                page.click("#send")
                page.wait_for_selector("#action")
                for _ in range(READINGS):
                    page.wait_for_event("response", lambda response: response.url.endswith("/stats"))
                if name == "phone":
                    page.evaluate("document.getElementById('reply').scrollIntoView({ behavior: 'instant' })")
                picture = Image.open(io.BytesIO(page.screenshot(full_page=name != "phone")))
                picture.save(FOLDER / f"page-{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
