"""Training logs: one CSV row and one TensorBoard point per interval; a resumed run drops rows past its checkpoint."""

from __future__ import annotations

import csv
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from training.files import atomic_path


class RunLog:
    """Writes `metrics.csv` and TensorBoard event files in `run_dir`.

    Args:
        run_dir: the run's folder.
        start: the update the run continues from; later rows of an earlier attempt are dropped.
    """

    def __init__(self, run_dir: Path, start: int) -> None:
        self._path = run_dir / "metrics.csv"
        self._fields: list[str] = []
        if self._path.exists():
            self._drop_rows_after(start)
        self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)

    def write(self, update: int, values: dict[str, float]) -> None:
        """One row: `update` and the values, as numbers."""
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
