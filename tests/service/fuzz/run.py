"""`make fuzz`: new inputs for every decoder, and new requests by the OpenAPI document. Prints a table of them."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from tests.service.fuzz.decoders import ALL, DECODERS
from tests.service.fuzz.document import check_document
from tests.service.fuzz.harness import MOST_KEPT, fuzz


def _row(name: str, inputs: int) -> tuple[str, int, bool]:
    """(a row of the table or what went wrong, inputs, is all well?)."""
    try:
        report = fuzz(DECODERS[name], inputs, repeatable=False)
    except BaseException:  # TookTooLong is one
        return f"| {name} | a fault |\n{traceback.format_exc(limit=-8)}", 0, False
    slowest, kept = f"{report.slowest * 1e3:.1f} ms", f"{report.kept / 1024:.0f} KiB"
    row = f"| {name} | {report.inputs:,} | {report.accepted:,} | {report.seconds:.1f} s | {slowest} | {kept} |"
    return row, report.inputs, report.kept < MOST_KEPT


def main() -> int:
    """Exit status: 0, or 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.service.fuzz.run", description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000, help="of all decoders together (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=400, help="of each operation (default: %(default)s)")
    options = parser.parse_args()
    each = -(-options.inputs // len(ALL))
    total, well = 0, True
    print("| decoder | inputs | accepted | CPU time | slowest | kept |\n|---|---|---|---|---|---|")
    # New processes: those that are forked would share the parent's random state, and its inputs.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_row, decoder.name, each) for decoder in ALL]):
            row, inputs, unharmed = done.result()
            print(row, flush=True)
            total, well = total + inputs, well and unharmed
    print(f"{total:,} inputs")
    with tempfile.TemporaryDirectory() as folder:
        outcome = check_document(Path(folder), options.examples)
    print(f"{outcome.cases:,} requests by the document in {outcome.seconds:.0f} s\n{outcome.failures}")
    return 0 if well and not outcome.failures and "Traceback" not in outcome.log else 1


if __name__ == "__main__":
    sys.exit(main())
