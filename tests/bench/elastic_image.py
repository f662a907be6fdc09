"""`python -m tests.bench.elastic_image`: docs/images/elastic.png, drawn from docs/results/bench/serve.json.

It measures nothing: `sorl-bench serve --json docs/results/bench/serve.json` does. `make images` calls it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from bench.serving import elastic

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    report = json.loads((DOCS / "results" / "bench" / "serve.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        elastic.write(report["sections"]["elastic"], Path(folder))
        shutil.copyfile(Path(folder) / "elastic.png", DOCS / "images" / "elastic.png")


if __name__ == "__main__":
    main()
