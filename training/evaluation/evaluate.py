"""`sorl-evaluate`: measures a policy over a grid of compute budgets and prints the table."""

from __future__ import annotations

from typing import Any

from kernels.commands import command
from policy import CheckpointError
from training.arguments import parse_arguments
from training.evaluation.grid import EvaluateConfig, evaluate_policy


def format_table(report: dict[str, Any]) -> str:
    """The cells of a report of `evaluate_policy` as text, one line each.

    k is the number of actions executed of each reply. Steps, calls of the policy and the jerk of the executed actions,
    in action units per second squared, are means over episodes.
    """
    lines = [
        f"{'N':>5} {'M':>3} {'k':>3} {'success':>8}  {'95 % interval':<15} {'episodes':>8} {'steps':>7} {'calls':>7} "
        f"{'jerk':>8}"
    ]
    for cell in report["cells"]:
        lines.append(
            f"{cell['num_candidates']:>5} {cell['num_steps']:>3} {cell['execute']:>3} {cell['success']:>8.1%}  "
            f"{cell['low']:6.1%} - {cell['high']:6.1%} {cell['episodes']:>8} {cell['mean_steps']:>7.1f} "
            f"{cell['mean_calls']:>7.1f} {cell['mean_jerk']:>8.4g}"
        )
    return "\n".join(lines)


@command("sorl-evaluate", CheckpointError, ValueError)
def main() -> None:
    """`sorl-evaluate`."""
    report = evaluate_policy(parse_arguments(EvaluateConfig))
    print(format_table(report))
    print(f"{report['task']}, seeds from {report['first_seed']}, {report['seconds']:.0f} s")
