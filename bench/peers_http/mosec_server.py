"""mosec: a web server in Rust, with dynamic batching in worker processes. mosec itself reads --port."""

from __future__ import annotations

import os
from typing import Any

import mosec

from bench.peers_http.sampler import BATCH_WAIT_MS, MAX_BATCH, Options, TorchPolicy


class PolicyWorker(mosec.Worker):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        self.policy = TorchPolicy(Options.parse())

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.policy(data)


if __name__ == "__main__":
    os.environ["MOSEC_ADDRESS"] = "127.0.0.1"
    server = mosec.Server()
    workers = Options.parse().workers
    server.append_worker(PolicyWorker, num=workers, max_batch_size=MAX_BATCH, max_wait_time=BATCH_WAIT_MS, route="/act")
    server.run()
