"""`Setup`: settings, policy, servers and request bodies, which the sections of `sorl-bench serve` share."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.serving.bodies import observation
from bench.serving.contestants import ONE_THREAD, Contestant
from policy import Policy

Section = Literal["peak", "head-of-line", "overload", "elastic", "protocols"]
SECTIONS: tuple[Section, ...] = ("peak", "head-of-line", "overload", "elastic", "protocols")


@dataclass(frozen=True)
class ServeBenchConfig:
    """Measure our server and others with one policy, in turn, on the same cores as the load (needs Debian's wrk)."""

    sections: tuple[Section, ...] = SECTIONS
    """What to measure: peak (closed loop), head-of-line (small requests beside large ones), overload (open loop at
    three times the peak goodput, with deadlines), elastic (granted N and M from light load to overload), protocols
    (closed loop in each of our protocols; groot needs the extra `zmq`, open-inference-grpc the extra `grpc`)."""
    servers: tuple[str, ...] = ()
    """Only servers whose names contain one of these; by default, ours and all peers that are installed."""
    peer_python: Path = Path(sys.executable)
    """Python interpreter that has the peers (extra `bench`), torch and safetensors."""
    connections: tuple[int, ...] = (1, 16, 64)
    """Numbers of closed-loop clients in sections peak and protocols."""
    seconds: float = 4.0
    """Seconds per measurement, after one second of warm-up."""
    rounds: int = 3
    """Number of alternating rounds; tables show medians."""
    action_horizon: int = 1
    """Actions in a reply: 1, or h for a policy that answers with chunks."""
    threads: int = 0
    """Compute threads of our servers, except the one that is measured with one; 0 is their default. Peers get the best
    setting of their calibration."""
    deadline_ms: float = 50.0
    """Deadline of section overload. Elastic's is 20 ms, the control period of a 50 Hz robot."""
    overload_seconds: float = 30.0
    """Seconds of overload."""
    out: Path | None = None
    """Folder for elastic's plot and table (elastic.png, elastic.csv; the plot needs the extra `train`)."""
    json: Path | None = None
    """Write the report to this file."""

    def __post_init__(self) -> None:
        for name in ("seconds", "rounds", "deadline_ms", "overload_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.action_horizon < 1:
            raise ValueError(f"action_horizon must be at least 1, got {self.action_horizon}")
        if self.threads < 0:
            raise ValueError(f"threads must be 0 or more, got {self.threads}")
        if not self.connections or min(self.connections) < 1:
            raise ValueError(f"connections must be positive numbers, got {self.connections}")


@dataclass(frozen=True)
class Setup:
    """What all sections need.

    Attributes:
        config: the settings.
        folder: a temporary folder of the run.
        policy: the policy that all servers serve.
        model: its file.
        contestants: the servers; peers are calibrated.
    """

    config: ServeBenchConfig
    folder: Path
    policy: Policy
    model: Path
    contestants: list[Contestant]

    def fields(self, **more: Any) -> dict[str, Any]:
        """A request's fields: the observation and `more`."""
        return {"observation": observation(self.policy.spec.obs_dim), **more}

    def body(self, num_candidates: int, num_steps: int) -> Path:
        """Write a request's body to a file, for wrk."""
        path = self.folder / f"{num_candidates}-{num_steps}.json"
        path.write_text(json.dumps(self.fields(num_candidates=num_candidates, num_steps=num_steps)))
        return path

    @property
    def fastest(self) -> list[Contestant]:
        """The contestants of the longer sections: our fastest engine with all threads and with one, and the peers."""
        ours = [contestant for contestant in self.contestants if contestant.ours]
        fastest = [c for c in ours if c == ours[0] or c.name == ONE_THREAD]
        return fastest + [contestant for contestant in self.contestants if not contestant.ours]
