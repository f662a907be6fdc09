"""Schemathesis against a server: are requests that its OpenAPI document allows, and others, answered as it says?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from policy import PolicyFile, save_policy
from tests.policies import random_policy
from tests.service.process import served

_KEY = "a key of the role admin, so that reloads are asked for"

# Names of what is served are tried beside random ones. Whether an observation fits the policy is not in the document:
# 422 is right there, and a policy that takes one number is met often. No time (503) and a deadline of 1e-300 ms (504)
# are no faults.
_CONFIG = """
hooks = "tests.service.fuzz.hooks"
continue-on-failure = true

[dictionaries.served]
values = ["small", "{version}"]

[generation]
dictionaries.string = {{ dictionary = "served", probability = 0.3 }}

[phases.stateful]
enabled = false

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "503", "504"]

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]
"""


@dataclass(frozen=True)
class Outcome:
    """What Schemathesis found.

    Attributes:
        cases: requests that it made up.
        seconds: that it took.
        failures: what it printed of them; empty: there were none.
        log: the server's.
    """

    cases: int
    seconds: float
    failures: str
    log: str


def check_document(folder: Path, examples: int, seed: int | None = None) -> Outcome:
    """Run it, with all of its checks, against a server of its own.

    Args:
        folder: for the policy and the configuration.
        examples: at most so many of each operation, in each of its phases.
        seed: of the requests; None: another one every time.
    """
    policy, config = folder / "small.safetensors", folder / "schemathesis.toml"
    save_policy(random_policy(7, name="small", obs_dim=1), policy)
    config.write_text(_CONFIG.format(version=PolicyFile.read(policy).version))
    with served("--model", str(policy), "--drain-grace-seconds", "0", SORL_ADMIN_KEY=_KEY) as server:
        reader = threading.Thread(target=lambda: server.log.extend(server.process.stderr or ()))
        reader.start()  # a full pipe would stop the server
        started = time.perf_counter()
        address = f"http://127.0.0.1:{server.port}/openapi.json"
        command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", address]
        command += ["--checks", "all", "--max-examples", str(examples), "--header", f"Authorization: Bearer {_KEY}"]
        command += [] if seed is None else ["--seed", str(seed)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}  # for the hooks
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        server.process.terminate()
        reader.join()
    found = re.search(r"(\d+) generated", run.stdout)
    failures = "" if run.returncode == 0 else run.stdout + run.stderr
    return Outcome(0 if found is None else int(found[1]), seconds, failures, "".join(server.log))
