"""A client as GR00T's own is written: `groot_client.py PORT [TOKEN]`. It answers every line of JSON with one.

GR00T's package can't be installed beside others. Its client is a REQ socket, msgpack with .npy files inside, and a new
socket after an error of ZeroMQ.
"""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import zmq

port, token = [*sys.argv[1:], None][:2]
context = zmq.Context()


def encode(value):
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}
    return value


def decode(value):
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    if "__ModalityConfig_class__" in value:
        return {"steps": len(value["as_json"]["delta_indices"]), "keys": value["as_json"]["modality_keys"]}
    return value


class Client:
    def __init__(self, timeout_ms=60_000):
        self.timeout_ms = timeout_ms
        self.connect()

    def connect(self):
        self.socket = context.socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, self.timeout_ms)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def call(self, endpoint, data=None, requires_input=True):
        request = {"endpoint": endpoint}
        if requires_input:
            request["data"] = data
        if token:
            request["api_token"] = token
        self.socket.send(msgpack.packb(request, default=encode))
        reply = msgpack.unpackb(self.socket.recv(), object_hook=decode)
        if isinstance(reply, dict) and "error" in reply:
            raise RuntimeError(f"Server error: {reply['error']}")
        return reply

    def ping(self):
        try:
            self.call("ping", requires_input=False)
            return True
        except zmq.error.ZMQError:
            self.socket.close()
            self.connect()
            return False

    def get_action(self, observation, options=None):
        action, info = self.call("get_action", {"observation": observation, "options": options})
        return action, info


client = Client()


def about():
    return {
        "ping": client.ping(),
        "reset": client.call("reset", {"options": None}),
        "config": client.call("get_modality_config", requires_input=False),
    }


def act(rows, options=None, by_state=True):
    """`rows` as GR00T has them, (B, T, D)."""
    state = np.array(rows, np.float32)[:, None]
    action, info = client.get_action({"state": {"state": state} if by_state else state}, options)
    return {
        "action": action["action"][:, 0].tolist(),
        "shape": action["action"].shape,
        "dtype": str(action["action"].dtype),
        "info": {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in info.items()},
    }


def many(row, seeds, robots=1):
    """The actions of `seeds`, one after the other, by each of `robots` at once."""

    def robot(_):
        own, state = Client(), np.array([[row]], np.float32)
        return [own.get_action({"state.state": state}, {"seed": seed})[0]["action"][0, 0].tolist() for seed in seeds]

    with ThreadPoolExecutor(robots) as pool:
        return list(pool.map(robot, range(robots)))


def impatient_ping(timeout_ms):
    client.socket.close()
    client.timeout_ms = timeout_ms
    client.connect()
    return client.ping()


def endpoint(name):
    return client.call(name, requires_input=False)


for line in sys.stdin:
    command = json.loads(line)
    try:
        answer = globals()[command.pop("do")](**command)
    except RuntimeError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
