"""The page's sections on claims: those that were tested, and those that did not reproduce."""

from __future__ import annotations

from training.reporting import p_value, percent, points
from training.results.measurements import Measurements
from training.results.record import Row
from training.results.tables import Tables


def claims_section(tables: Tables, measurements: Measurements) -> str:
    """The section on all tested claims, as Markdown."""
    episodes = measurements.plan.protocol.report.episodes
    intro = (
        f'## Claims\n\nPaired on the same {episodes} report episodes. "Holds" and "reversed" need an interval that '
        'excludes 0 and p < 0.05; everything else is "not separated". (N, M) names a budget; the best M is that of the '
        "best cell, chosen on selection seeds."
    )
    rows = tables["claims"]
    if not rows:
        return f"{intro}\n\nNot run."
    parts = [intro]
    for policy in tables["policies"]:
        mine = [row for row in rows if row["label"] == policy["label"]]
        body = "\n".join(f"- {sentence(row)}" for row in mine) if mine else "Not run."
        parts.append(f"### {policy['label']}\n\n{body}")
    if len(tables["policies"]) > 1:
        parts.append("### Over policies\n\n" + "\n".join(_counts(rows)))
    return "\n\n".join(parts)


def sentence(row: Row) -> str:
    """A row of the table "claims" as a sentence."""
    return (
        f"{row['text'][0].upper()}{row['text'][1:]}: **{row['verdict']}**. {row['a']} {percent(row['success_a'])}, "
        f"{row['b']} {percent(row['success_b'])}, difference {points(row['difference'], row['low'], row['high'])}; "
        f"{row['a']} alone solved {row['only_a']}, {row['b']} alone {row['only_b']} of {row['episodes']} paired "
        f"episodes, {p_value(row['p_value'])}."
    )


def not_reproduced_section(tables: Tables) -> str:
    """The section on claims of the paper that did not hold, as Markdown."""
    paper = [row for row in tables["claims"] if row["paper"]]
    failed = [row for row in paper if row["verdict"] != "holds"]
    if not paper:
        body = "No claim of the paper has been tested here."
    elif not failed:
        body = "Every claim of the paper that was tested holds."
    else:
        body = "\n".join(f"- {row['label']}: {sentence(row)}" for row in failed)
    return f"## What did not reproduce\n\n{body}"


def _counts(rows: list[Row]) -> list[str]:
    lines = []
    for text in dict.fromkeys(row["text"] for row in rows):
        verdicts = [row["verdict"] for row in rows if row["text"] == text]
        lines.append(
            f"- {text[0].upper()}{text[1:]}: holds for {verdicts.count('holds')}, reversed for "
            f"{verdicts.count('reversed')}, not separated for {verdicts.count('not separated')} of {len(verdicts)}."
        )
    return lines
