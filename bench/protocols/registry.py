"""`PROTOCOLS`: every protocol by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Literal, get_args

from bench.protocols.groot import Groot
from bench.protocols.http import HttpJson, HttpMsgpack, OpenVla
from bench.protocols.open_inference import OpenInferenceBinary, OpenInferenceJson
from bench.protocols.open_inference_grpc import OpenInferenceGrpc
from bench.protocols.openpi import Openpi
from bench.protocols.wire import WireProtocol

ProtocolName = Literal[
    "http-json",
    "http-msgpack",
    "openvla",
    "openpi",
    "open-inference-json",
    "open-inference-binary",
    "open-inference-grpc",
    "groot",
]

PROTOCOLS: Mapping[ProtocolName, WireProtocol] = dict(
    zip(
        get_args(ProtocolName),
        (
            HttpJson(),
            HttpMsgpack(),
            OpenVla(),
            Openpi(),
            OpenInferenceJson(),
            OpenInferenceBinary(),
            OpenInferenceGrpc(),
            Groot(),
        ),
        strict=True,
    )
)

_EXTRAS = {"zeromq": ("zmq", "pyzmq", "zmq"), "grpc": ("grpc", "grpcio", "grpc")}
"""Of transports: the module, its package, and our extra that has it."""


def require(names: Iterable[ProtocolName]) -> None:
    """Raise ValueError unless there is a protocol, and what all of them need is installed."""
    chosen = [*names]
    if not chosen:
        raise ValueError(f"protocols: expected one or more of {', '.join(PROTOCOLS)}")
    for name in chosen:
        if why := _missing(name):
            raise ValueError(f"protocols: {why}")


def installed() -> tuple[ProtocolName, ...]:
    """The protocols that need nothing which is not installed."""
    return tuple(name for name in PROTOCOLS if not _missing(name))


def left_out() -> list[str]:
    """Why each protocol that is not in `installed` is not."""
    return [why for name in PROTOCOLS if (why := _missing(name))]


def _missing(name: ProtocolName) -> str:
    """What the protocol needs and is not installed; "" if it can be spoken."""
    module, package, extra = _EXTRAS.get(PROTOCOLS[name].transport, ("", "", ""))
    if not module or find_spec(module) is not None:
        return ""
    return f"{name} needs {package}: pip install 'sorl-serve[{extra}]'"
