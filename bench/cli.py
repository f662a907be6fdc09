"""`sorl-bench SUBCOMMAND ...`: import the subcommand's module, and run it with the other arguments."""

from __future__ import annotations

import importlib
import sys

from kernels.commands import command

COMMANDS = {
    "engine": ("bench.engine", "sample-and-score on the CPU: our engines and peers, in alternating rounds"),
    "precision": ("bench.precision", "errors of fp32 and bf16 in candidates and choices, against float64"),
    "serve": ("bench.serving.cli", "our server and peers: peak, head-of-line blocking, overload; our protocols"),
    "drill": ("bench.drill.cli", "faults under load, in every protocol: reloads, restarts, hang-ups, poison"),
    "swap": ("bench.swap", "a served policy swapped again and again under requests with deadlines: who was late"),
    "fleet": ("bench.fleet.cli", "simulated robots beside an open loop: success by load and by how they ask"),
    "hostile": ("bench.hostile", "a robot and a closed loop beside idle websockets and clients that send too slowly"),
    "ray": ("bench.ray", "requests/s of Ray Serve by replicas, against one plain server (needs wrk and Ray)"),
    "metrics": ("bench.metrics", "time that recording metrics adds to a request of one candidate and one step"),
    "train": ("bench.train", "a training update: ours and the released code's, in alternating rounds"),
    "aot": ("bench.aot", "compile every kernel tile for every GPU, and check its resources (needs no GPU)"),
    "gpu": ("bench.gpu", "on a CUDA device: check the GPU kernel, then time it against torch"),
    "model": ("bench.model", "cost model of the GPU kernel: predicted times of its tiles and of alternatives"),
}


@command("sorl-bench")
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the subcommand's exit status, or 2 if there is no such subcommand."""
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
