"""`sorl-bench SUBCOMMAND ...`: finds the subcommand's module and hands it the rest."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "engine": ("bench.engine", "sample-and-score on the CPU: our engines and peers, in alternating rounds"),
    "precision": ("bench.precision", "what fp32 and bf16 do to candidates and choices, against float64"),
    "serve": ("bench.serving.cli", "over HTTP: our server and its peers at peak, beside large requests, overloaded"),
    "drill": ("bench.drill.cli", "faults under load: reloads, restarts, hang-ups, poison; every request accounted for"),
    "ray": ("bench.ray", "requests/s of Ray Serve by replicas against one plain server (needs wrk and Ray)"),
    "metrics": ("bench.metrics", "what recording metrics adds to a request of one candidate and one step"),
    "train": ("bench.train", "an update of training: ours and the released code's, in alternating rounds"),
    "aot": ("bench.aot", "compile every GPU configuration for every card, without one, and check its resources"),
    "gpu": ("bench.gpu", "on a CUDA card: correctness, then the GPU kernel against torch; writes a report"),
    "model": ("bench.model", "what the GPU kernel should cost on paper, and what that says about its configurations"),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: the subcommand's; 2 for one that does not exist."""
    given = sys.argv[1:] if arguments is None else arguments
    name, rest = (given[0], given[1:]) if given else ("", [])
    if name not in COMMANDS:
        if name in ("-h", "--help"):
            print(_usage())
            return 0
        print(f"sorl-bench: error: no subcommand {name!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    status: int = module.main(rest)
    return status


def _usage() -> str:
    lines = [f"  {name:11}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: sorl-bench SUBCOMMAND [--json FILE] [...]", "", *lines, "", "--help after a subcommand."])


if __name__ == "__main__":
    sys.exit(main())
