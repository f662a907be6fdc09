"""`PROTOCOLS`: every protocol by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Literal, get_args

from bench.protocols.groot import Groot
from bench.protocols.http import HttpJson, HttpMsgpack, OpenVla
from bench.protocols.open_inference import OpenInferenceBinary, OpenInferenceJson
from bench.protocols.openpi import Openpi
from bench.protocols.wire import WireProtocol

ProtocolName = Literal[
    "http-json", "http-msgpack", "openvla", "openpi", "open-inference-json", "open-inference-binary", "groot"
]

PROTOCOLS: Mapping[ProtocolName, WireProtocol] = dict(
    zip(
        get_args(ProtocolName),
        (HttpJson(), HttpMsgpack(), OpenVla(), Openpi(), OpenInferenceJson(), OpenInferenceBinary(), Groot()),
        strict=True,
    )
)


def require(names: Iterable[ProtocolName]) -> None:
    """Raise ValueError unless there is a protocol, and what all of them need is installed."""
    chosen = [*names]
    if not chosen:
        raise ValueError(f"protocols: expected one or more of {', '.join(PROTOCOLS)}")
    if any(PROTOCOLS[name].transport == "zeromq" for name in chosen) and find_spec("zmq") is None:
        raise ValueError("protocols: groot needs pyzmq: pip install 'sorl-serve[zmq]'")
