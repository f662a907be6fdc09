"""All records that a plan needs, and what they still lack."""

from __future__ import annotations

from pathlib import Path

from training.results.errors import ResultsError
from training.results.plan import Plan, Subject
from training.results.protocol import Cell, Seeds
from training.results.record import Record, best_cell, record_folder


class Measurements:
    """The records of a plan's policies, by sha256; a policy that was never measured has none.

    Raises:
        ResultsError: a subject has no record.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self._records = {
            version: Record(record_folder(folder, version))
            for version in plan.versions()
            if (record_folder(folder, version) / "policy.json").exists()
        }
        for subject in plan.subjects:
            if subject.version not in self._records:
                raise ResultsError(f"{folder} holds no measurement of {subject.label} ({subject.version[:12]})")

    def record(self, version: str) -> Record | None:
        return self._records.get(version)

    def of(self, subject: Subject) -> Record:
        return self._records[subject.version]

    def best(self, subject: Subject) -> Cell | None:
        return best_cell(self.of(subject), self.plan.protocol)

    def not_run(self) -> list[str]:
        """What the plan asks for and the records do not hold, for people."""
        plan, protocol = self.plan, self.plan.protocol
        missing: list[str] = []

        def episodes(name: str, record: Record | None, cells: list[Cell], seeds: Seeds) -> None:
            lacking = [cell for cell in cells if record is None or record.rows(cell, seeds) is None]
            if lacking:
                missing.append(f"{name}: {len(lacking)} of {len(cells)} cells ({', '.join(map(str, lacking))})")

        for subject in plan.subjects:
            record, best = self.of(subject), self.best(subject)
            episodes(f"{subject.label}, grid", record, protocol.grid(), protocol.selection)
            if best:
                episodes(f"{subject.label}, report seeds", record, protocol.reported(best), protocol.report)
                episodes(f"{subject.label}, random and worst", record, protocol.verifier(best), protocol.selection)
            else:
                missing.append(f"{subject.label}: headline, claims and verifier, which need the whole grid")
            measured = {(int(row["num_candidates"]), int(row["num_steps"])) for row in record.table("latency")}
            slow = [cell for cell in protocol.grid() if (cell.num_candidates, cell.num_steps) not in measured]
            if slow:
                missing.append(f"{subject.label}, latency: {len(slow)} of {len(protocol.grid())} cells")
            if not record.has_shortcut(protocol.num_steps):
                missing.append(f"{subject.label}, shortcut error")
        if not plan.curves:
            missing.append("learning curves: no run folder with kept policies was named")
        for curve in plan.curves:
            for updates, version in curve.points:
                name = f"{curve.label}, learning curve at {updates:,} updates"
                episodes(name, self.record(version), protocol.curve(), protocol.selection)
        return missing
