"""The Open Inference Protocol over gRPC, on a port of its own: what /act answers, errors in gRPC's codes, one road."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.grpc.messages import MESSAGES, SERVICE
from service.recording.replay import main as replay
from service.settings import Settings
from tests.service.waiting import until

pytestmark = pytest.mark.anyio

Rows = Callable[[int], list[list[float]]]


@asynccontextmanager
async def calling(client: httpx.AsyncClient, credentials: Any = None) -> AsyncIterator[Callable[..., Any]]:
    """`await call("ModelInfer", message or bytes)`, on the endpoint of the app behind `client`."""
    address = f"127.0.0.1:{client.app.state.grpc.port}"  # type: ignore[attr-defined]
    channel = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    async with channel:

        def call(method: str, message: Any = None, **options: Any) -> Any:
            body = MESSAGES[f"{method}Request"]() if message is None else message
            send = channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=lambda body: body if isinstance(body, bytes) else body.SerializeToString(),
                response_deserializer=MESSAGES[f"{method}Response"].FromString,
            )
            return send(body, timeout=30, **options)

        yield call


def request(rows: Any, parameters: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A ModelInferRequest with raw contents."""
    array = np.array(rows, "<f4")
    message = MESSAGES["ModelInferRequest"](model_name="small", raw_input_contents=[array.tobytes()])
    message.inputs.add(name="observation", datatype="FP32", shape=array.shape)
    for name, value in (parameters or {}).items():
        kinds = {bool: "bool_param", int: "uint64_param", float: "double_param", str: "string_param"}
        message.parameters.add(key=name, value={kinds[type(value)]: value})
    message.MergeFrom(MESSAGES["ModelInferRequest"](**changes))
    return message


def arrays(reply: Any) -> dict[str, np.ndarray]:
    dtypes = {"FP32": "<f4", "INT32": "<i4", "UINT64": "<u8"}
    return {
        output.name: np.frombuffer(raw, dtypes[output.datatype]).reshape(output.shape)
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


async def count(client: httpx.AsyncClient, outcome: str) -> float:
    text = (await client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    labels = {"protocol": "open-inference-grpc", "outcome": outcome}
    return sum(
        sample.value
        for sample in samples
        if sample.name == "sorl_requests_total" and labels.items() <= sample.labels.items()
    )


async def refused(call: Any, message: Any, **options: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call("ModelInfer", message, **options)
    return caught.value


async def test_it_answers_what_act_answers(serve: Any, observations: Rows) -> None:
    rows = observations(2)
    fields = {"num_candidates": 5, "num_steps": 3, "temperature": 0.5, "seed": 2**64 - 1}
    async with serve(grpc_port=0) as client, calling(client) as call:
        body = {"observation": rows, **fields, "seed": str(fields["seed"])}
        expected = (await client.post("/act", json=body)).json()
        reply = await call("ModelInfer", request(rows, fields, id="r-1"))
        assert (reply.model_name, reply.model_version, reply.id) == ("small", expected["model_version"], "r-1")
        outputs = arrays(reply)
        for name in ("action", "q", "q_std", "observation_z_max"):
            assert outputs[name].tolist() == expected[name]
        assert outputs["seed"].tolist() == [2**64 - 1, 0]
        assert (outputs["num_candidates"].tolist(), outputs["num_steps"].tolist()) == ([5, 5], [3, 3])
        said = {entry.key: entry.value for entry in reply.parameters}
        assert said["request_id"].string_param == "r-1"
        assert said["engine"].string_param == expected["engine"]
        assert said["degraded"].HasField("bool_param")
        assert 0 < said["compute_ms"].double_param <= said["total_ms"].double_param
        assert await count(client, "ok") == 1


async def test_numbers_in_place_of_bytes_and_the_outputs_asked_for(serve: Any, observations: Rows) -> None:
    (row,) = observations(1)
    async with serve(grpc_port=0) as client, calling(client) as call:
        plain = arrays(await call("ModelInfer", request(row, {"seed": 4})))
        message = request(row, {"seed": 4})
        del message.raw_input_contents[:]
        message.inputs[0].contents.fp32_contents.extend(row)
        message.outputs.add(name="candidates")
        message.outputs.add(name="action")
        chosen = arrays(await call("ModelInfer", message))
    assert list(chosen) == ["candidates", "action"]
    assert chosen["candidates"].shape == (8, 3)
    assert chosen["action"].tolist() == plain["action"].tolist()


async def test_what_is_known_of_server_and_model(serve: Any) -> None:
    async with serve(grpc_port=0) as client, calling(client) as call:
        described = (await client.get("/v2/models/small")).json()
        assert (await call("ServerLive")).live
        assert (await call("ServerReady")).ready
        assert (await call("ServerMetadata")).name == "sorl-serve"
        for name, version, ready in [("small", "", True), ("small", described["versions"][0], True),
                                     ("small", "1", False), ("other", "", False)]:  # fmt: skip
            asked = MESSAGES["ModelReadyRequest"](name=name, version=version)
            assert (await call("ModelReady", asked)).ready is ready
        reply = await call("ModelMetadata", MESSAGES["ModelMetadataRequest"](name="small"))
        assert (reply.name, list(reply.versions)) == ("small", described["versions"])
        for member in ("inputs", "outputs"):
            tensors = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in getattr(reply, member)]
            assert tensors == [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in described[member]]
        config = (await call("ModelConfig", MESSAGES["ModelConfigRequest"](name="small"))).config
        assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [
            ("observation", 11, [6])
        ]
        assert config.max_batch_size == 64
        index = await call("RepositoryIndex")
        assert [(model.name, model.version) for model in index.models] == [("small", described["versions"][0])]
        with pytest.raises(grpc.aio.AioRpcError, match="unknown_model: model: 'other'") as caught:
            await call("ModelMetadata", MESSAGES["ModelMetadataRequest"](name="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_errors_have_grpcs_codes(serve: Any, observations: Rows) -> None:
    (row,) = observations(1)
    both, shared, twice, wide = request(row), request(row), request(row), request(row)
    both.inputs[0].contents.fp32_contents.extend(row)
    shared.inputs[0].parameters.add(key="shared_memory_region", value={"string_param": "r"})
    twice.inputs.add(name="observation", datatype="FP32", shape=[6])
    twice.raw_input_contents.append(twice.raw_input_contents[0])
    wide.inputs[0].shape[:] = [1, 1, 1, 6]
    nothing = request(row)
    del nothing.inputs[:], nothing.raw_input_contents[:]
    outputs = MESSAGES["ModelInferRequest"]().outputs
    outputs.add(name="torque")
    async with serve(grpc_port=0) as client, calling(client) as call:
        for message, code, words in [
            (b"\xff\xff", "INVALID_ARGUMENT", "invalid_request: the message is not a ModelInferRequest"),
            (nothing, "INVALID_ARGUMENT", "invalid_request: inputs: expected at least one tensor"),
            (both, "INVALID_ARGUMENT", "invalid_request: observation: expected raw_input_contents or contents"),
            (shared, "INVALID_ARGUMENT", "invalid_request: observation: expected no parameters; found 'shared_"),
            (twice, "INVALID_ARGUMENT", "invalid_request: inputs: 'observation' is there twice"),
            (wide, "INVALID_ARGUMENT", "invalid_request: observation: expected a shape of 1 to 3 sizes"),
            (request(row, raw_input_contents=[b""]), "INVALID_ARGUMENT", "invalid_request: raw_input_contents: "),
            (request(row[:3]), "INVALID_ARGUMENT", "invalid_request: observation: expected 6 numbers a row"),
            (request(row, {"priority": 11}), "INVALID_ARGUMENT", "invalid_request: priority: expected 1"),
            (request(row, {"steps": 1}), "INVALID_ARGUMENT", "invalid_request: 'steps' is not a parameter"),
            (request(row, outputs=outputs), "INVALID_ARGUMENT", "invalid_request: outputs: 'torque' is not an"),
            (request(row, id="a b"), "INVALID_ARGUMENT", "invalid_request: request_id: expected 1 to 128"),
            (request(row, model_version="1"), "FAILED_PRECONDITION", "version_gone: model_version"),
            (request(row, {"timeout": 5}), "DEADLINE_EXCEEDED", "deadline_exceeded: "),
        ]:
            error = await refused(call, message)
            assert error.code() is grpc.StatusCode[code], error
            assert error.details().startswith(words), error
        error = await refused(call, request(row, {"timeout": 5}))
        assert error.details().endswith(" (timeout was 5, in microseconds)"), error
        error = await refused(call, request(row, {"num_steps": 0}, id="r-1"))
        assert dict(error.trailing_metadata())["x-request-id"] == "r-1"
        error = await refused(call, bytes(2_000_000))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await count(client, "ok") == 0


async def test_a_key_is_asked_for(serve: Any, observations: Rows) -> None:
    (row,) = observations(1)
    key = "0123456789abcdef0123456789abcdef"
    async with serve(grpc_port=0, api_key=key) as client, calling(client) as call:
        error = await refused(call, request(row))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error.details().startswith("unauthorized: ")
        await call("ModelInfer", request(row), metadata=(("authorization", f"Bearer {key}"),))


async def test_a_drained_server_says_so(serve: Any, observations: Rows) -> None:
    async with serve(grpc_port=0) as client, calling(client) as call:
        await client.app.state.runtime.stop()
        error = await refused(call, request(observations(1)[0]))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(error.trailing_metadata())["retry-after"] == "1"
        assert not (await call("ServerReady")).ready
        assert (await call("ServerLive")).live


async def test_what_was_accepted_is_answered_before_the_end(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    async with serve(make_backend, grpc_port=0) as client, calling(client) as call:
        made[0].shut()
        waiting = asyncio.ensure_future(call("ModelInfer", request(observations(1)[0])))
        await asyncio.to_thread(made[0].entered.acquire, timeout=30)
        stopping = asyncio.ensure_future(client.app.state.runtime.stop())
        await until(lambda: client.app.state.runtime.scheduler._closed)
        made[0].gate.set()
        assert arrays(await waiting)["action"].shape == (3,)
        await stopping


async def test_nothing_is_computed_for_a_client_that_hung_up(serve: Any, gated: Any, observations: Rows) -> None:
    make_backend, made = gated
    (row,) = observations(1)
    async with serve(make_backend, grpc_port=0) as client, calling(client) as call:
        scheduler, backend = client.app.state.runtime.scheduler, made[0]
        backend.shut()
        running = asyncio.ensure_future(call("ModelInfer", request(row)))
        await asyncio.to_thread(backend.entered.acquire, timeout=30)
        gone = call("ModelInfer", request(row))
        sending = asyncio.ensure_future(gone)
        await until(lambda: scheduler.queued)
        gone.cancel()
        await until(lambda: not scheduler.queued)
        backend.gate.set()
        await running
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await count(client, "client_gone") == 1
    assert len(backend.batches) == 1


async def test_requests_are_recorded_and_replayed(
    serve: Any, observations: Rows, checkpoint: Path, tmp_path: Path
) -> None:
    async with serve(record_dir=tmp_path, grpc_port=0) as client, calling(client) as call:
        await call("ModelInfer", request(observations(2), id="kept"))
    (file,) = tmp_path.iterdir()
    assert '"kept"' in file.read_text()
    assert replay([str(file), "--model", str(checkpoint)]) == 0


async def test_tls(serve: Any, observations: Rows, tmp_path: Path) -> None:
    """The certificate of HTTPS is gRPC's, too: a key never travels in the open."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key, root = tmp_path / "tls.crt", tmp_path / "tls.key", authority.cert_pem.bytes()
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    async with serve(grpc_port=0, ssl_certfile=chain, ssl_keyfile=key) as client:
        async with calling(client, grpc.ssl_channel_credentials(root)) as call:
            assert arrays(await call("ModelInfer", request(observations(1)[0])))["action"].shape == (3,)
        async with calling(client) as call:
            error = await refused(call, request(observations(1)[0]))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_a_port_that_is_taken_is_refused_by_name(make_settings: Callable[..., Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"grpc_port: can't listen on 127\.0\.0\.1:{port}"):
            create_app(make_settings(grpc_port=port))
