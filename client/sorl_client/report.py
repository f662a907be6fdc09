"""The output of `sorl-drive`: a row per episode, a summary, and a comparison of two seed policies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sorl_client.control import Episode
from sorl_client.episodes import SeedPolicy
from sorl_client.statistics import jerk, percentiles, wilson_interval

HEADER = "episode  success  steps    p50 ms    p99 ms  misses  jerk"
JERK_UNIT = "action units/s^2"


@dataclass(frozen=True)
class Summary:
    """Statistics over the episodes of one seed policy.

    `success_low` and `success_high` are the 95 % Wilson interval of the success rate. Latency percentiles are over all
    ticks of all episodes, in ms. `start_p50_ms` and `start_max_ms` are over the episodes: how long a robot stood still
    for its first reply; None if it did not.
    """

    seed_policy: SeedPolicy
    episodes: int
    successes: int
    success_low: float
    success_high: float
    steps: int
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    latency_max_ms: float
    limit_ms: float
    misses: int
    holds: int
    degraded: int
    jerk: float
    start_p50_ms: float | None = None
    start_max_ms: float | None = None

    def text(self) -> str:
        """The summary, a line each of success, latency, start, misses and jerk."""
        return "\n".join(
            [
                f"success   {self.success_text()}",
                f"latency   {self.latency_text()} ms over {self.steps} ticks",
                *self._start_lines(),
                f"misses    {self.misses_text()} of {self.limit_ms:g} ms; held {self.holds}, degraded {self.degraded}",
                f"jerk      {self.jerk:.4g} {JERK_UNIT} (mean norm of the second difference of actions x rate^2)",
            ]
        )

    def _start_lines(self) -> list[str]:
        if self.start_p50_ms is None:
            return []
        return [f"start     p50 {self.start_p50_ms:.1f}, max {self.start_max_ms:.1f} ms to an episode's first reply"]

    def success_text(self) -> str:
        """ "7/10 = 70 % (40 to 89)" """
        share, low, high = (100.0 * x for x in (self.successes / self.episodes, self.success_low, self.success_high))
        return f"{self.successes}/{self.episodes} = {share:.0f} % ({low:.0f} to {high:.0f})"

    def latency_text(self) -> str:
        """ "p50 3.1, p95 4.0, p99 5.2, max 9.9" """
        figures = (self.latency_p50_ms, self.latency_p95_ms, self.latency_p99_ms, self.latency_max_ms)
        return ", ".join(f"{name} {x:.1f}" for name, x in zip(("p50", "p95", "p99", "max"), figures, strict=True))

    def misses_text(self) -> str:
        """ "3/640 = 0.5 %" """
        return f"{self.misses}/{self.steps} = {100.0 * self.misses / self.steps:.1f} %"


def summarise(seed_policy: SeedPolicy, driven: Sequence[Episode], hz: float) -> Summary:
    """Summarise one or more episodes of one seed policy, at a control rate of `hz`."""
    successes = sum(episode.success for episode in driven)
    low, high = wilson_interval(successes, len(driven))
    p50, p95, p99, top = percentiles([ms for episode in driven for ms in episode.latencies_ms], (50, 95, 99, 100))
    starts = [episode.start_ms for episode in driven if episode.start_ms is not None]
    start_p50, start_max = percentiles(starts, (50, 100)) if starts else (None, None)
    return Summary(
        seed_policy=seed_policy,
        episodes=len(driven),
        successes=successes,
        success_low=low,
        success_high=high,
        steps=sum(episode.steps for episode in driven),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        latency_max_ms=top,
        limit_ms=driven[0].limit_ms,
        misses=sum(episode.misses for episode in driven),
        holds=sum(episode.holds for episode in driven),
        degraded=sum(episode.degraded for episode in driven),
        jerk=jerk([episode.actions for episode in driven], hz),
        start_p50_ms=start_p50,
        start_max_ms=start_max,
    )


def row(episode: Episode, hz: float) -> str:
    """An episode's line of the table under HEADER."""
    p50, p99 = percentiles(episode.latencies_ms, (50, 99))
    return (
        f"{episode.episode:>7}  {'yes' if episode.success else 'no':>7}  {episode.steps:>5}  {p50:>8.2f}  {p99:>8.2f}"
        f"  {episode.misses:>6}  {jerk([episode.actions], hz):.4g}"
    )


def as_json(episode: Episode, hz: float) -> dict[str, Any]:
    """An episode as JSON. Equal `actions_sha256` means the same actions, bit for bit."""
    p50, p99, top = percentiles(episode.latencies_ms, (50, 99, 100))
    return {
        "episode": episode.episode,
        "success": episode.success,
        "steps": episode.steps,
        "latency_p50_ms": p50,
        "latency_p99_ms": p99,
        "latency_max_ms": top,
        "misses": episode.misses,
        "holds": episode.holds,
        "degraded": episode.degraded,
        "start_ms": episode.start_ms,
        "jerk": jerk([episode.actions], hz),
        "chunks": None if episode.chunks is None else asdict(episode.chunks),
        "actions_sha256": hashlib.sha256(episode.actions.tobytes()).hexdigest(),
    }


def side_by_side(one: Sequence[Episode], other: Sequence[Episode], hz: float) -> str:
    """Compare the seed policies "step" (`one`) and "episode" (`other`) on the same episodes in the same order."""
    step, episode = summarise("step", one, hz), summarise("episode", other, hz)
    only_step = sum(a.success and not b.success for a, b in zip(one, other, strict=True))
    only_episode = sum(b.success and not a.success for a, b in zip(one, other, strict=True))
    lines = [
        ("seed policy", "step", "episode"),
        ("success", step.success_text(), episode.success_text()),
        ("solved by this alone", str(only_step), str(only_episode)),
        (f"jerk, {JERK_UNIT}", f"{step.jerk:.4g}", f"{episode.jerk:.4g}"),
        ("latency, ms", step.latency_text(), episode.latency_text()),
        ("misses", step.misses_text(), episode.misses_text()),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {a:<{widths[1]}}  {b}" for name, a, b in lines)
