"""What an adapter of a protocol presents of a request (`Incoming`), and what answers it (`Answers`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from service.errors import ServiceError
from service.protocol.names import ProtocolName
from service.protocol.replies import Answer
from service.protocol.schemas import ActRequest

ReplyT_co = TypeVar("ReplyT_co", covariant=True)
ReplyT = TypeVar("ReplyT")

# Seeded by the system once. uuid4 asks the system each time, which is a call of 13 us; nothing here is a secret.
_random = random.Random()


def new_request_id() -> str:
    """128 random bits as hexadecimal digits, for a request that came without an id."""
    return f"{_random.getrandbits(128):032x}"


class Incoming(Protocol[ReplyT_co]):
    """One request that has not been read yet, and its replies in the form of its protocol."""

    @property
    def protocol(self) -> ProtocolName:
        """For the metrics. Asked for once the request has been read, since forms that share an address differ there."""
        ...

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """By lower-case names; traces are continued from them. Empty where a protocol has none."""
        ...

    @property
    def credential(self) -> str | None:
        """Scheme and key, as in the HTTP header Authorization."""
        ...

    @property
    def request_id(self) -> str:
        """As given, or a new one."""
        ...

    async def read(self) -> ActRequest:
        """What is asked. Raises ServiceError for anything that is no valid request."""
        ...

    async def hung_up(self) -> None:
        """Returns once nobody waits for the reply any more. Cancelled if there is a reply before."""
        ...

    def answered(self, answer: Answer, timing: Callable[[], dict[str, float]]) -> ReplyT_co:
        """The reply. `timing` ends the measurement and returns it (`Timing`): call it after encoding the rest."""
        ...

    def refused(self, error: ServiceError) -> ReplyT_co:
        """The reply for an error."""
        ...


class Answers(Protocol):
    """`service.answering.Answerer`."""

    async def reply(self, incoming: Incoming[ReplyT]) -> ReplyT:
        """The reply to a request; errors are replies too."""
        ...
