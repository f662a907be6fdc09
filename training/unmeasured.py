"""The specification of a policy that nobody has measured: what `sorl-train` writes, and `sorl-export --as-trained`."""

from __future__ import annotations

from dataclasses import replace

from policy import Budget, PolicySpec


def name_of(task: str) -> str:
    """A policy's name until it is exported: the task's environment and data, e.g. "cube-single"."""
    return "-".join(task.split("-")[:2])


def budget_of(denoise_timesteps: int) -> Budget:
    """The default budget until success was measured."""
    return Budget(num_candidates=32, num_steps=min(4, denoise_timesteps))


def as_trained(spec: PolicySpec) -> PolicySpec:
    """`spec` without what `sorl-export` adds of measurements: name, frontier, headline, default budget and notes.

    What an export sets otherwise is kept: the names of the observation's parts, coherence, temperature.
    """
    return replace(
        spec,
        name=name_of(spec.provenance.environment) or spec.name,
        frontier=(),
        headline=None,
        default_budget=budget_of(spec.denoise_timesteps),
        provenance=replace(spec.provenance, notes=""),
    )
