"""openpi's own client: `openpi_policy.py HOST [PORT]`. It answers every line of JSON with one."""

import json
import logging
import sys

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

host, *port = sys.argv[1:]
logging.disable()
policy = None


def plain(value):
    return {"array": value.tolist(), "dtype": str(value.dtype)} if isinstance(value, np.ndarray) else value


def connect(key=None):
    global policy
    policy = WebsocketClientPolicy(host, int(port[0]) if port else None, api_key=key)
    return policy.get_server_metadata()


def infer(observation, name="observation/state", **fields):
    reply = policy.infer({name: np.array(observation, np.float32), **fields})
    return {field: plain(value) for field, value in reply.items()}


def brokered(observation, **fields):
    """Through openpi's broker, which takes steps of time from the first axis of every array."""
    broker = ActionChunkBroker(policy, action_horizon=policy.get_server_metadata()["action_horizon"])
    reply = broker.infer({"observation/state": np.array(observation, np.float32), **fields})
    return {field: plain(value) for field, value in reply.items()}


def ticks(observation, count, **fields):
    """So many calls of one broker: the actions that it hands out."""
    broker = ActionChunkBroker(policy, action_horizon=policy.get_server_metadata()["action_horizon"])
    request = {"observation/state": np.array(observation, np.float32), **fields}
    return [broker.infer(request)["actions"].tolist() for _ in range(count)]


def many(observation, seeds):
    """One after the other."""
    return [infer(observation, seed=np.int64(seed))["actions"]["array"] for seed in seeds]


CALLS = {"connect": connect, "infer": infer, "brokered": brokered, "ticks": ticks, "many": many}

for line in sys.stdin:
    call = json.loads(line)
    try:
        answer = CALLS[call.pop("do")](**call)
    except Exception as error:
        answer = {"raised": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
