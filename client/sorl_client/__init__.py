"""Client of SORL Serve: request the best action that a policy server can compute by a deadline.

`Client` and `AsyncClient` are the API; `errors` has the errors they raise. `ControlLoop` asks at a robot's rate.
`drive` is the command sorl-drive.
"""

from sorl_client.action import Action
from sorl_client.chunk_schedule import ChunkStatistics
from sorl_client.circuit import CircuitBreaker
from sorl_client.client import AsyncClient, Client
from sorl_client.control import Ask
from sorl_client.control_loop import ControlLoop
from sorl_client.errors import (
    AdminDisabled,
    CircuitOpen,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    InvalidReply,
    NotReady,
    Overloaded,
    RateLimited,
    ReloadFailed,
    RequestRefused,
    ServerFailed,
    SorlError,
    StaleReply,
    Unauthorized,
    VersionGone,
    WrongArgumentType,
)
from sorl_client.hedging import Hedge
from sorl_client.retry import RetryPolicy
from sorl_client.tick import LateReply, LoopStatistics, Tick

__all__ = [
    "Action",
    "AdminDisabled",
    "Ask",
    "AsyncClient",
    "ChunkStatistics",
    "CircuitBreaker",
    "CircuitOpen",
    "Client",
    "ConnectionFailed",
    "ControlLoop",
    "DeadlineExceeded",
    "Hedge",
    "InvalidArgument",
    "InvalidReply",
    "LateReply",
    "LoopStatistics",
    "NotReady",
    "Overloaded",
    "RateLimited",
    "ReloadFailed",
    "RequestRefused",
    "RetryPolicy",
    "ServerFailed",
    "SorlError",
    "StaleReply",
    "Tick",
    "Unauthorized",
    "VersionGone",
    "WrongArgumentType",
]
