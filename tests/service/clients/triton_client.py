"""Triton's own client, over HTTP or gRPC: `triton_client.py http|grpc PORT`. It answers every line of JSON with one."""

import importlib
import json
import sys
from functools import partial
from queue import Queue

import numpy as np

transport, port = sys.argv[1:]
triton = importlib.import_module(f"tritonclient.{transport}")
exceptions = importlib.import_module("tritonclient.utils").InferenceServerException
over_http = transport == "http"
client = triton.InferenceServerClient(f"127.0.0.1:{port}")


def tensors(observation, dtype="float32", binary=True, name="observation"):
    array = np.array(observation, dtype)
    datatype = {"float32": "FP32", "float64": "FP64", "float16": "FP16", "int32": "INT32"}[dtype]
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, **({"binary_data": binary} if over_http else {}))
    return [tensor]


def requested(names, binary):
    return names and [
        triton.InferRequestedOutput(name, **({"binary_data": binary} if over_http else {})) for name in names
    ]


def plain(result):
    head = result.get_response() if over_http else result.get_response(as_json=True)
    arrays = {output["name"]: result.as_numpy(output["name"]) for output in head["outputs"]}
    return {
        "outputs": {name: array.tolist() for name, array in arrays.items()},
        "dtypes": {name: str(array.dtype) for name, array in arrays.items()},
        "id": head.get("id"),
        "model_version": head["model_version"],
        "parameters": head["parameters"],
    }


def infer(observation, dtype="float32", binary=True, name="observation", outputs=None, model="small", **options):
    inputs = tensors(observation, dtype, binary, name)
    return plain(client.infer(model, inputs, outputs=requested(outputs, binary), **options))


def many(observation, seeds):
    """One after the other."""
    return [infer([*observation], outputs=["action"], parameters={"seed": seed})["outputs"] for seed in seeds]


def asynchronous(observation, seeds):
    """All at once."""
    if over_http:
        send = partial(client.async_infer, "small", tensors(observation))
        waiting = [send(parameters={"seed": seed}) for seed in seeds]
        return [plain(request.get_result())["outputs"] for request in waiting]
    done = Queue()
    for seed in seeds:
        callback = partial(lambda seed, result, error: done.put((seed, result, error)), seed)
        client.async_infer("small", tensors(observation), callback, parameters={"seed": seed})
    answers = {}
    for _ in seeds:
        seed, result, error = done.get(timeout=60)
        if error is not None:
            raise error
        answers[seed] = plain(result)["outputs"]
    return [answers[seed] for seed in seeds]


def reconnect():
    """gRPC connects again after a second or more, and refuses until then."""
    if not over_http:
        importlib.import_module("grpc").channel_ready_future(client._channel).result(timeout=60)


def about():
    as_json = {} if over_http else {"as_json": True}
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model": client.is_model_ready("small"),
        "other_model": client.is_model_ready("other"),
        "server": client.get_server_metadata(**as_json),
        "metadata": client.get_model_metadata("small", **as_json),
        "config": client.get_model_config("small", **as_json),
        "index": client.get_model_repository_index(**as_json),
    }


for line in sys.stdin:
    command = json.loads(line)
    try:
        answer = globals()[command.pop("do")](**command)
    except exceptions as error:
        answer = {"error": error.message(), "status": error.status()}
    except ConnectionRefusedError:
        answer = {"error": "refused"}
    print(json.dumps(answer), flush=True)
# Left to the interpreter's end, gRPC's channel sometimes waits for a thread that is gone by then.
client.close()
