"""Client of SORL Serve: ask a policy server for the best action it can give by a deadline."""

from sorl_client.action import Action
from sorl_client.client import AsyncClient, Client
from sorl_client.errors import (
    AdminDisabled,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidReply,
    NotReady,
    Overloaded,
    ReloadFailed,
    RequestRefused,
    ServerFailed,
    SorlError,
    StaleReply,
    Unauthorized,
    VersionGone,
)
from sorl_client.retry import RetryPolicy

__all__ = [
    "Action",
    "AdminDisabled",
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "InvalidReply",
    "NotReady",
    "Overloaded",
    "ReloadFailed",
    "RequestRefused",
    "RetryPolicy",
    "ServerFailed",
    "SorlError",
    "StaleReply",
    "Unauthorized",
    "VersionGone",
]
