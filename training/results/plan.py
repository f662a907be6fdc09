"""`Plan`: the policies, learning curves and protocol of a page, stored beside the measurements as plan.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.files import write_json
from training.results.errors import ResultsError
from training.results.protocol import Protocol, Seeds


@dataclass(frozen=True)
class Subject:
    """A policy that every experiment is run on."""

    label: str
    version: str
    """sha256 of its file."""
    checkpoints: int
    """Number of checkpoints that it was chosen from on selection seeds; 1 means no choice."""


@dataclass(frozen=True)
class Curve:
    """A learning curve: a run's kept policies, in order of updates."""

    label: str
    points: tuple[tuple[int, str], ...]
    """(updates, sha256 of the policy after them)."""


@dataclass(frozen=True)
class Plan:
    """Everything that the page of one task shows, or lists as not run."""

    task: str
    protocol: Protocol
    subjects: tuple[Subject, ...]
    curves: tuple[Curve, ...]

    def versions(self) -> list[str]:
        """sha256 of every policy that the page needs."""
        curves = [version for curve in self.curves for _, version in curve.points]
        return list(dict.fromkeys([*(subject.version for subject in self.subjects), *curves]))

    def joined_protocol(self, protocol: Protocol) -> Protocol:
        """This plan's protocol with the quartile cells of `protocol` added: they add claims and change none.

        Raises:
            ResultsError: another setting differs, for a page has one protocol; the message names it.
        """
        cells = tuple(dict.fromkeys((*self.protocol.quartile_cells, *protocol.quartile_cells)))
        joined = replace(self.protocol, quartile_cells=cells)
        ours, others = asdict(joined), asdict(replace(protocol, quartile_cells=cells))
        differing = [f"{name} (the page has {ours[name]})" for name in ours if ours[name] != others[name]]
        if differing:
            raise ResultsError(f"the page of {self.task} was measured by other rules: {', '.join(differing)}")
        return joined

    def merged_with(self, further: Plan) -> Plan:
        """This plan with the entries of `further` added. Where labels are equal, the entry of `further` replaces ours.

        Raises:
            ResultsError: the protocols differ in more than their quartile cells.
        """
        subjects = {subject.label: subject for subject in (*self.subjects, *further.subjects)}
        curves = {curve.label: curve for curve in (*self.curves, *further.curves)}
        return Plan(self.task, self.joined_protocol(further.protocol), tuple(subjects.values()), tuple(curves.values()))

    def write(self, path: Path) -> None:
        """Write plan.json."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read plan.json.

        Raises:
            ResultsError: the file does not exist or is not a plan.
        """
        try:
            value = json.loads(path.read_text())
            return cls(
                task=value["task"],
                protocol=_protocol(value["protocol"]),
                subjects=tuple(Subject(**subject) for subject in value["subjects"]),
                curves=tuple(
                    Curve(curve["label"], tuple((updates, version) for updates, version in curve["points"]))
                    for curve in value["curves"]
                ),
            )
        except OSError as error:
            raise ResultsError(f"{path} can't be read: {error.strerror}; run sorl-results on policies first") from None
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"{path} is not a plan of sorl-results: {error}") from None


def _protocol(value: dict[str, Any]) -> Protocol:
    fields: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    fields["selection"], fields["report"] = (Seeds(**value[name]) for name in ("selection", "report"))
    for name in ("curve_cells", "quartile_cells"):  # plans of earlier releases have no quartile cells
        fields[name] = tuple((n, m) for n, m in value.get(name, ()))
    return Protocol(**fields)
