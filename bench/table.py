"""Output of the subcommands: tables, JSON reports, and the common command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add --json FILE, as every subcommand has it."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report to this file")


def print_table(rows: Sequence[Row]) -> None:
    """Print rows of equal keys as a table: text aligned left, numbers right."""
    if not rows:
        return
    heads = list(rows[0])
    cells = [[_cell(row[head]) for head in heads] for row in rows]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    left = [isinstance(rows[0][head], str) for head in heads]
    for line in [heads, *cells]:
        padded = (c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(line, widths, left, strict=True))
        print("  ".join(padded).rstrip())


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON to `path`, unless that is None."""
    if path is not None:
        path.write_text(json.dumps(content, indent=2) + "\n")


def run_subcommand(
    name: str,
    config_type: type[Any],
    arguments: list[str],
    run: Callable[[Any], dict[str, Any]],
    print_report: Callable[[dict[str, Any]], None],
    failed: Callable[[dict[str, Any]], bool] = lambda report: False,
) -> int:
    """Run a subcommand: parse `config_type` from the arguments, call `run`, print its report, and write it to
    `config.json`.

    Returns:
        The exit status: 1 if `failed(report)`, else 0.
    """
    import tyro

    try:
        config = tyro.cli(config_type, prog=f"sorl-bench {name}", args=arguments)
        report = run(config)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"sorl-bench {name}: {error}") from None
    print_report(report)
    write_json(config.json, report)
    return int(failed(report))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
