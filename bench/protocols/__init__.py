"""The protocols that our server speaks, as their clients write and read them. Written from their descriptions, without
the server's code, so that the benchmarks and the drill also check the server's bytes.

`wire` says what is asked and replied in every protocol; `http`, `open_inference`, `open_inference_grpc`, `openpi` and
`groot` are the protocols. `websocket`, `zeromq` and `grpc` are connections beside `bench.connection`, which is HTTP's.
"""

from bench.protocols.registry import PROTOCOLS, ProtocolName, installed, left_out, require
from bench.protocols.wire import Ask, Connection, Reply, ServerAddress, WireProtocol

__all__ = [
    "PROTOCOLS",
    "Ask",
    "Connection",
    "ProtocolName",
    "Reply",
    "ServerAddress",
    "WireProtocol",
    "installed",
    "left_out",
    "require",
]
