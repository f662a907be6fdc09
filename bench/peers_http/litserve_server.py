"""LitServe: dynamic batching in worker processes, which ZeroMQ connects to the web server."""

from __future__ import annotations

from typing import Any

import litserve

from bench.peers_http.sampler import BATCH_WAIT_MS, MAX_BATCH, Options, TorchPolicy


class PolicyApi(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    def setup(self, device: str) -> None:
        self.policy = TorchPolicy(Options.parse())

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.policy(requests)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output


if __name__ == "__main__":
    options = Options.parse()
    api = PolicyApi(max_batch_size=MAX_BATCH, batch_timeout=BATCH_WAIT_MS / 1e3, api_path="/act")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers, fast_queue=True)
    server.run(host="127.0.0.1", port=options.port, num_api_servers=1, generate_client_file=False, log_level="warning")
