"""`Measurements`: the records that a plan needs, and what they lack."""

from __future__ import annotations

from pathlib import Path

from training.results.errors import ResultsError
from training.results.plan import Plan, Subject
from training.results.protocol import Cell, Seeds
from training.results.record import Record, best_cell, record_folder


class Measurements:
    """The records of a plan's policies.

    Raises:
        ResultsError: a subject has no record. (A policy of a learning curve may have none.)
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
        """The record of a policy by its sha256; None if it was never measured."""
        return self._records.get(version)

    def record_of(self, subject: Subject) -> Record:
        """The record of a subject."""
        return self._records[subject.version]

    def best(self, subject: Subject) -> Cell | None:
        """The subject's best cell; see `best_cell`."""
        return best_cell(self.record_of(subject), self.plan.protocol)

    def not_run(self) -> list[str]:
        """What the plan asks for and the records lack, one line each, for the page."""
        plan, protocol = self.plan, self.plan.protocol
        missing: list[str] = []

        def episodes(name: str, record: Record | None, cells: list[Cell], seeds: Seeds) -> None:
            lacking = [cell for cell in cells if record is None or record.rows(cell, seeds) is None]
            if lacking:
                missing.append(f"{name}: {len(lacking)} of {len(cells)} cells ({', '.join(map(str, lacking))})")

        for subject in plan.subjects:
            record, best = self.record_of(subject), self.best(subject)
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
