"""What the sections of `sorl-bench serve` share: settings, the policy that is served, request bodies."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.serving.bodies import observation
from bench.serving.contestants import ONE_THREAD, Contestant
from policy import Policy

Section = Literal["peak", "head-of-line", "overload", "elastic"]
SECTIONS: tuple[Section, ...] = ("peak", "head-of-line", "overload", "elastic")


@dataclass(frozen=True)
class ServeBenchConfig:
    """Our server and others with the same policy, in turn on the same cores as the load (needs Debian's wrk)."""

    sections: tuple[Section, ...] = SECTIONS
    """What to measure: peak (closed loop), head-of-line (small requests beside large ones), overload (open loop at
    three times what the server can do, with deadlines), elastic (what is granted from light load to overload)."""
    servers: tuple[str, ...] = ()
    """Only servers whose names contain one of these; without it, ours and all peers that are installed."""
    peer_python: Path = Path(sys.executable)
    """Python that has the peers (extra `bench`), torch and safetensors."""
    connections: tuple[int, ...] = (1, 16, 64)
    """Closed-loop clients of peak."""
    seconds: float = 4.0
    """Length of a measurement; one second before it is thrown away."""
    rounds: int = 3
    """Alternating rounds; tables show medians."""
    threads: int = 0
    """Compute threads of our servers but one, which has one; 0 is their own choice. Peers get the best of their
    calibration."""
    deadline_ms: float = 50.0
    """Deadline of overload; elastic's is 20 ms, a tick of a 50 Hz robot."""
    overload_seconds: float = 30.0
    """Length of overload."""
    out: Path | None = None
    """Folder for elastic's plot and table (elastic.png, elastic.csv; the plot needs the extra `train`)."""
    json: Path | None = None
    """Write everything here."""

    def __post_init__(self) -> None:
        for name in ("seconds", "rounds", "deadline_ms", "overload_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.threads < 0:
            raise ValueError(f"threads must be 0 or more, got {self.threads}")
        if not self.connections or min(self.connections) < 1:
            raise ValueError(f"connections must be positive numbers, got {self.connections}")


@dataclass(frozen=True)
class Setup:
    """Attributes:
    config: the settings.
    folder: for files that end with the run.
    policy: what everyone serves.
    model: its file.
    contestants: who takes part; peers as calibrated.
    """

    config: ServeBenchConfig
    folder: Path
    policy: Policy
    model: Path
    contestants: list[Contestant]

    def fields(self, **more: Any) -> dict[str, Any]:
        """A request's fields: an observation, and what is given."""
        return {"observation": observation(self.policy.spec.obs_dim), **more}

    def body(self, num_candidates: int, num_steps: int) -> Path:
        """A file with a request's body, for wrk."""
        path = self.folder / f"{num_candidates}-{num_steps}.json"
        path.write_text(json.dumps(self.fields(num_candidates=num_candidates, num_steps=num_steps)))
        return path

    @property
    def fastest(self) -> list[Contestant]:
        """Our fastest engine with each number of threads, and the peers: who the longer sections are about."""
        ours = [contestant for contestant in self.contestants if contestant.ours]
        fastest = [c for c in ours if c == ours[0] or c.name == ONE_THREAD]
        return fastest + [contestant for contestant in self.contestants if not contestant.ours]
