"""A run's logs: metrics.csv and TensorBoard, one row and one point per interval; and readers of metrics.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from training.files import atomic_path


class RunLog:
    """Writes metrics.csv and TensorBoard event files in `run_dir`.

    Args:
        run_dir: the run's folder.
        start: the update that the run continues from. Rows of an earlier attempt beyond it are dropped.
    """

    def __init__(self, run_dir: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # 0.3 s that readers of metrics.csv and --help do without

        self._path = run_dir / "metrics.csv"
        self._fields: list[str] = []
        if self._path.exists():
            self._drop_rows_after(start)
        self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)

    def write(self, update: int, values: dict[str, float]) -> None:
        """Append one row: `update` and `values` by name."""
        row = {"update": update, **values}
        new = not self._path.exists()
        if not self._fields:
            self._fields = list(row)
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self._fields, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, update)
        self._tensorboard.flush()

    def close(self) -> None:
        """Close the event file."""
        self._tensorboard.close()

    def _drop_rows_after(self, update: int) -> None:
        with self._path.open(newline="") as file:
            reader = csv.DictReader(file)
            self._fields = list(reader.fieldnames or [])
            rows = [row for row in reader if int(row["update"]) <= update]
        with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._fields)
            writer.writeheader()
            writer.writerows(rows)


def last_metrics(run_dir: Path) -> dict[str, str] | None:
    """The last whole row of metrics.csv; None if there is none."""
    try:
        with (run_dir / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
    except FileNotFoundError:
        return None
    return rows[-1] if rows else None


def training_seconds(metrics: Path, updates: int) -> float | None:
    """Wall time of the first `updates` updates, in seconds, from the rates in metrics.csv; None if it has none."""
    if not metrics.exists():
        return None
    seconds, before = 0.0, 0
    with metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            update = int(row["update"])
            if update > updates:
                break
            seconds += (update - before) / float(row["updates_per_second"])
            before = update
    return round(seconds, 1) if before else None
