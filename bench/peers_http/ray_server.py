"""Ray Serve: dynamic batching in replicas behind its HTTP proxy."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

from bench.peers_http.sampler import BATCH_WAIT_MS, MAX_BATCH, Options, TorchPolicy


@serve.deployment(max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0})
class PolicyDeployment:
    def __init__(self, options: Options) -> None:
        self.policy = TorchPolicy(options)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_MS / 1e3)
    async def sample(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.policy(requests)

    async def __call__(self, request: Request) -> dict[str, Any]:
        reply: dict[str, Any] = await self.sample(await request.json())
        return reply


if __name__ == "__main__":
    options = Options.parse()
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    deployment: Any = PolicyDeployment
    quiet = LoggingConfig(enable_access_log=False)
    serve.run(
        deployment.options(num_replicas=options.workers).bind(options),
        route_prefix="/act",
        blocking=True,
        logging_config=quiet,
    )
