"""A process that times the released JAX code: reads commands, a line each, and writes a line of JSON for each.

"24" runs 24 updates; "sample 32 4" samples once with N = 32, M = 4. `sorl-bench train` and `sorl-bench engine` start it
for `--release DIR`, with the user's Python that has the released code's requirements.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    release, sizes = sys.argv[1], json.loads(sys.argv[2])
    sys.path.insert(0, release)
    import jax
    import numpy as np
    from agents.sorl import SORLAgent, get_config

    widths = set(sizes["hidden"])
    if len(widths) != 1:
        raise SystemExit("the released code has one width for all hidden layers")
    config = get_config()
    config.update(
        actor_layer_size=widths.pop(), actor_num_layers=len(sizes["hidden"]), value_num_layers=len(sizes["hidden"])
    )
    config.value_layer_size = config.actor_layer_size
    rng = np.random.default_rng(0)
    observations, next_observations = rng.standard_normal((2, sizes["batch"], sizes["obs_dim"]), np.float32)
    batch = {
        "observations": observations,
        "next_observations": next_observations,
        "actions": rng.uniform(-1, 1, (sizes["batch"], sizes["action_dim"])).astype(np.float32),
        "rewards": np.full(sizes["batch"], -1, np.float32),
        "masks": np.ones(sizes["batch"], np.float32),
    }
    batch = {name: jax.device_put(array) for name, array in batch.items()}
    agent = SORLAgent.create(0, observations[:1], batch["actions"][:1], config)
    for line in sys.stdin:
        if line.startswith("sample"):
            n, m = map(int, line.split()[1:])
            started = time.perf_counter()
            action = agent.sample_actions(observations[0], seed=agent.rng, inference_timesteps=m, n=n)
            jax.block_until_ready(action)
            print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
            continue
        count = int(line)
        ks = []
        keys = agent.rng
        for _ in range(count):
            keys, pair = following_ks(jax, keys, len(config["k_values"]))
            ks.append(pair)
        started = time.perf_counter()
        for _ in range(count):
            agent, info = agent.update(batch)
        jax.block_until_ready((agent.network.params, info))
        print(json.dumps({"seconds": (time.perf_counter() - started) / count, "ks": ks}), flush=True)


def following_ks(jax: Any, key: Any, choices: int) -> tuple[Any, tuple[int, int]]:
    """The key after an update and the (critic_k, q_k) that it draws, by the same splits as `SORLAgent.update`."""
    following, rng = jax.random.split(key)
    critic_switch, _ = jax.random.split(rng, 2)
    _, actor_rng = jax.random.split(rng)
    q_switch, _ = jax.random.split(jax.random.split(actor_rng, 3)[2], 2)
    drawn = (int(jax.random.randint(switch, (), 0, choices)) for switch in (critic_switch, q_switch))
    critic_k, q_k = (1 << index for index in drawn)
    return following, (critic_k, q_k)


if __name__ == "__main__":
    main()
