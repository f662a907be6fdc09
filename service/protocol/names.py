"""The names of the protocols, as metrics have them in the label `protocol`."""

from __future__ import annotations

from typing import Literal, get_args

ProtocolName = Literal["http", "openvla", "openpi", "open-inference", "open-inference-grpc", "groot"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
