"""What a subcommand found: a table for people, JSON for machines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """--json FILE, the same for every subcommand."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")


def print_table(rows: Sequence[Row]) -> None:
    """Rows of equal keys as columns: text left, numbers right."""
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
    """Write `content`, if a file was asked for."""
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
    """A subcommand that a dataclass describes: parse, run, print, and write the report where `config.json` says.

    Returns:
        The exit status: 1 for a report that `failed` says so of.
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
