"""`judge`: find the violations in a drill. Each request must have exactly one final reply, with the correct action for
the N and M that it was granted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.drill.ledger import Answer, Ledger
from bench.drill.plan import DrillRequest
from bench.drill.versions import Timeline, Version


@dataclass(frozen=True)
class Violation:
    """Something that must not happen. `kind` is counted; `where` is a request's id or the fault's name."""

    kind: str
    where: str
    detail: str


def judge(
    requests: Sequence[DrillRequest], ledger: Ledger, versions: Mapping[str, Version], timeline: Timeline
) -> list[Violation]:
    """All violations among a drill's requests. `versions` has all policy versions, by sha256."""
    found: list[Violation] = []
    answered: dict[str, list[Answer]] = defaultdict(list)
    for request in requests:
        answers = ledger.answers.get(request.number, [])
        if not answers:
            found.append(Violation("lost", request.id, ledger.given_up.get(request.number, "never sent")))
        if len(answers) > 1:
            found.append(Violation("answered twice", request.id, f"{len(answers)} final answers"))
        for answer in answers:
            faults = list(_faults_of_form(answer, versions))
            found += faults
            if answer.reply.status == 200 and not faults:
                answered[answer.reply.fields["model_version"]].append(answer)
    for sha, answers in answered.items():
        found += _faults_of_content(versions[sha], answers, timeline)
    if surplus := ledger.counts["surplus answers"]:
        found.append(Violation("answered twice", "connections", f"{surplus} replies without a request"))
    return found


def _faults_of_form(answer: Answer, versions: Mapping[str, Version]) -> Iterator[Violation]:
    """Violations in a reply's status, id and fields, found without computing the action."""
    request, reply, fields = answer.request, answer.reply, answer.reply.fields
    readable = request.kind != "malformed" or request.wire.id_beside_body
    if readable and not reply.ids <= {request.id}:
        yield Violation("wrong id", request.id, f"the reply has {', '.join(sorted(map(str, reply.ids)))}")
        return  # another request's reply: it says nothing about this one
    said = f"{request.protocol}: {reply.status} {reply.code}".strip()
    if request.kind == "malformed":
        if not (reply.code and 400 <= reply.status < 500):
            yield Violation("poison not refused", request.id, said)
    elif reply.status == 200:
        if fields.get("model_version") not in versions:
            yield Violation("wrong version", request.id, f"named version {fields.get('model_version')}: {reply.detail}")
        if not _allowed(request, fields):
            said = ", ".join(f"{name} {fields.get(name)}" for name in ("num_candidates", "num_steps", "degraded"))
            yield Violation("wrong budget", request.id, f"asked for {request.budget}, got {said}")
    elif (reply.status, reply.code) == (504, "deadline_exceeded") and request.deadline_ms:
        return  # late, and said so: `deadlines` counts them
    elif request.kind != "extreme":
        yield Violation("valid request refused", request.id, f"{said}: {reply.detail}")
    elif (reply.status, reply.code) != (422, "observation_too_large"):
        yield Violation("poison not contained", request.id, said)
    elif all(version.actions([request], [request.budget])[0] is not None for version in versions.values()):
        yield Violation("wrong action", request.id, "refused as too large, but its action is finite in every version")


def _faults_of_content(version: Version, answers: Sequence[Answer], timeline: Timeline) -> Iterator[Violation]:
    """Violations among replies that name `version`: the version was not served then, or the action differs in any bit
    from its action for the granted N and M."""
    expected = version.actions([answer.request for answer in answers], [answer.granted for answer in answers])
    for answer, action in zip(answers, expected, strict=True):
        request, fields = answer.request, answer.reply.fields
        if not timeline.allows(version.sha, answer.sent, answer.received):
            yield Violation("wrong version", request.id, f"{version.sha[:12]} was not served then")
        if fields.get("engine") != version.engine:
            yield Violation("wrong engine", request.id, f"expected {version.engine}, found {fields.get('engine')}")
        elif action is None:
            yield Violation("poison not contained", request.id, f"{version.sha[:12]} gives no finite action")
        elif not _equal(fields.get("action"), action):
            yield Violation(
                "wrong action", request.id, f"{version.sha[:12]} gives {action.tolist()}: {fields.get('action')}"
            )


def _allowed(request: DrillRequest, fields: Mapping[str, Any]) -> bool:
    """Whether N and M are as asked; or less, if there is a deadline and the reply says why."""
    granted = fields.get("num_candidates"), fields.get("num_steps")
    if granted == request.budget:
        return fields.get("degraded") is False
    fewer = all(isinstance(n, int) and 1 <= n <= most for n, most in zip(granted, request.budget, strict=True))
    return fewer and request.deadline_ms is not None and isinstance(fields.get("degraded"), str)


def _equal(found: Any, expected: np.ndarray) -> bool:
    """Whether the actions are equal to the bit: all protocols represent every float32 exactly."""
    return isinstance(found, (list, np.ndarray)) and np.array_equal(np.asarray(found, dtype=np.float64), expected)
