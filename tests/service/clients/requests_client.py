"""POST /act with requests, and arrays as a home-made client sends them: `requests_client.py ENCODING PORT`.

ENCODING is json-numpy, json-numpy-text (OpenVLA's double encoding) or msgpack-numpy. It answers every line of JSON, the
fields of a request whose observation is nested lists, with one: the reply, arrays as lists again.
"""

import json
import sys

import json_numpy
import msgpack
import msgpack_numpy
import numpy as np
import requests

encoding, port = sys.argv[1:]
url = f"http://127.0.0.1:{port}/act"
session = requests.Session()
dumps, loads = json.dumps, json.loads  # as they are before the patch, for the test's own lines
json_numpy.patch()
msgpack_numpy.patch()


def post(fields, headers):
    """The reply, or the problem."""
    if encoding == "json-numpy":
        response = session.post(url, json=fields, headers=headers, timeout=30)
    elif encoding == "json-numpy-text":
        response = session.post(url, json={"encoded": json.dumps(fields)}, headers=headers, timeout=30)
    else:
        headers = {"Content-Type": "application/msgpack", **headers}
        response = session.post(url, data=msgpack.packb(fields), headers=headers, timeout=30)
    if not response.ok:
        return {"status": response.status_code, **response.json()}
    if encoding == "msgpack-numpy":
        return {"status": 200, **msgpack.unpackb(response.content)}
    reply = response.json()
    return {"status": 200, **(json.loads(reply) if encoding == "json-numpy-text" else reply)}


def arrays(value):
    """The arrays that a robot has: float32, and NumPy scalars where it counts."""
    if isinstance(value, dict):
        return {name: arrays(item) for name, item in value.items()}
    if isinstance(value, list):
        return np.array(value, np.float32)
    return np.int64(value) if type(value) is int else value


def lists(reply):
    """The reply for a test, and which members were arrays of which dtype."""
    dtypes = {name: str(value.dtype) for name, value in reply.items() if isinstance(value, np.ndarray)}
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in reply.items()}
    return {**plain, "dtypes": dtypes}


for line in sys.stdin:
    command = loads(line)
    fields, headers = arrays(command["fields"]), command.get("headers", {})
    try:
        if "seeds" in command:
            answer = [lists(post({**fields, "seed": seed}, headers))["action"] for seed in command["seeds"]]
        else:
            answer = lists(post(fields, headers))
    except requests.ConnectionError:
        answer = {"status": 0}
    print(dumps(answer), flush=True)
