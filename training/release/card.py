"""`model_card`: a policy's card in Markdown, made from its file's metadata and from what holds for every policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from policy import Measurement, Policy, PolicySpec, best_measured
from training.config import non_default_settings
from training.reporting import budget_table, layers, rate, table

# Settings that the card states elsewhere than in its table of settings.
_STATED_ELSEWHERE = {"updates", "preset", "start_from", "action_low", "action_high", "control_hz", "observation_keys"}


def model_card(policy: Policy, file: str) -> str:
    """The card as Markdown, with the front matter that model hubs read.

    Args:
        policy: from a file.
        file: the name of that file.
    """
    spec = policy.spec
    parts = [
        _FRONT_MATTER,
        f"# {spec.name}",
        f"A shortcut policy with a Q ensemble (SORL, arXiv 2505.22866){_purpose(spec)}. Written by `sorl-export` from "
        f"the metadata of `{file}`.",
        table(["", ""], _contract(policy)),
        _USE.format(file=file, budget=_budget(spec.default_budget.num_candidates, spec.default_budget.num_steps)),
        "## Success",
        _success(spec),
        "## Training",
        *_training(spec),
        "## Limits",
        _limits(spec),
    ]
    return "\n\n".join(parts) + "\n"


def summary(policy: Policy) -> str:
    """The card in a few lines, for the terminal."""
    spec = policy.spec
    lines = [f"  {name}: {value}" for name, value in _contract(policy)]
    headline = [f"  success: {_headline(spec.headline)}"] if spec.headline else []
    return "\n".join([f"{spec.name}{_purpose(spec)}", *headline, *lines]).replace("`", "")


_FRONT_MATTER = """\
---
library_name: sorl-serve
pipeline_tag: robotics
tags: [robotics, offline-reinforcement-learning, shortcut-model, best-of-n]
---"""

_USE = """\
## Use

    sorl-serve --model {file}

```python
from sorl_client import Client

with Client("http://127.0.0.1:8000") as client:
    reply = client.act(observation)  # {budget}; or num_candidates=, num_steps=, or deadline_ms=
```"""


def _purpose(spec: PolicySpec) -> str:
    return f" for `{spec.provenance.environment}`" if spec.provenance.environment else ""


def _contract(policy: Policy) -> list[tuple[str, str]]:
    spec = policy.spec
    seen = {"identity": "raw", "standardise": "standardised inside"}[spec.normaliser]
    budget = spec.default_budget
    return [
        ("observations", f"{spec.obs_dim}{_parts(spec)}, {seen}"),
        ("actions", f"{spec.action_dim} in {_bounds(spec)}, at {spec.control_hz:g} Hz{_chunk(spec)}"),
        *_commitment(spec),
        ("actor", f"{layers(spec.actor_hidden)}; grids of 1 to {spec.denoise_timesteps} steps"),
        ("critics", f"{spec.ensemble_size} of {layers(spec.critic_hidden)}, the {spec.q_agg} of the ensemble"),
        ("default budget", _budget(budget.num_candidates, budget.num_steps)),
        *_temperature(spec),
        ("version (sha256)", f"`{policy.version}`"),
    ]


def _parts(spec: PolicySpec) -> str:
    parts = ", ".join(f"{key.name} {key.size}" for key in spec.observation_keys)
    return parts and f" ({parts})"


def _chunk(spec: PolicySpec) -> str:
    return f", {spec.action_horizon} at once" if spec.action_horizon > 1 else ""


def _commitment(spec: PolicySpec) -> list[tuple[str, str]]:
    """The row on committed actions, of policies with chunks."""
    if spec.action_horizon == 1:
        return []
    inputs = f"the first {spec.prefix_max} are an input; " if spec.prefix_max else ""
    return [("committed actions", f"{inputs}coherence {spec.coherence:g} unless a request says another")]


def _temperature(spec: PolicySpec) -> list[tuple[str, str]]:
    """The row on noise, of policies that scale it."""
    return [("temperature", f"{spec.temperature:g} unless a request says another")] if spec.temperature != 1 else []


def _bounds(spec: PolicySpec) -> str:
    pairs = [f"[{low:g}, {high:g}]" for low, high in zip(spec.action_low, spec.action_high, strict=True)]
    return pairs[0] if len(set(pairs)) == 1 else " x ".join(pairs)


def _budget(num_candidates: int, num_steps: int) -> str:
    return f"N = {num_candidates}, M = {num_steps}"


def _headline(cell: Measurement) -> str:
    budget = _budget(cell.num_candidates, cell.num_steps)
    return f"{rate(asdict(cell))} over {cell.episodes} episodes at {budget}"


def _success(spec: PolicySpec) -> str:
    parts = []
    if spec.headline:
        parts.append(f"**{_headline(spec.headline)}**, on episode seeds that chose nothing (95 % Wilson intervals).")
    if best := best_measured(spec.frontier):
        rates = {(cell.num_candidates, cell.num_steps): asdict(cell) for cell in spec.frontier}
        parts += [
            f"By candidates N and steps M, per cent, {_episodes(spec.frontier)} episodes a cell, on the seeds that "
            "chose the budget: the best of these cells is a maximum, not a result.",
            budget_table(
                rates,
                sorted({n for n, _ in rates}),
                sorted({m for _, m in rates}),
                (best.num_candidates, best.num_steps),
            ),
        ]
    return "\n\n".join(parts) or "Not measured: the server chooses budgets by its documented default order."


def _episodes(cells: Sequence[Measurement]) -> str:
    counts = sorted({cell.episodes for cell in cells})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _training(spec: PolicySpec) -> list[str]:
    origin = spec.provenance
    data = f" on data of sha256 `{origin.dataset_sha256}`" if origin.dataset_sha256 else ""
    parts = [f"{origin.updates:,} updates{data}, seed {origin.seed}."]
    rows = [
        (f"`{name}`", _value(here), _value(default))
        for name, (here, default) in non_default_settings({"task": origin.environment, **origin.config}).items()
        if name not in _STATED_ELSEWHERE
    ]
    if rows:
        parts += [
            "Settings that differ from the defaults of `sorl-train`, which are the paper's where it has any for this "
            "environment:",
            table(["setting", "here", "default"], rows),
        ]
    if start := origin.config.get("start_from"):
        parts.append(
            f"This run started from the networks of `{start['version'][:12]}`, after {start['updates']:,} updates."
        )
    return [*parts, origin.notes] if origin.notes else parts


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return layers(value)
    return f"{value:,}" if type(value) is int else str(value)


def _limits(spec: PolicySpec) -> str:
    where = f"`{spec.provenance.environment}`" if spec.provenance.environment else "its training environment"
    return (
        f"- Nothing is known of it outside {where}: not on other tasks, nor on a robot where that is a simulation.\n"
        "- An observation unlike the data's gets an action all the same, within bounds and without meaning: "
        "`observation_z_max` of the reply says how many standard deviations off it is.\n"
        "- Q ranks candidates of one observation; it is no probability of success."
    )
