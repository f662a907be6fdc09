"""Keys as plain values, and the hash by which the server knows them."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Role = Literal["act", "metrics", "admin"]
"""act: ask for actions, in every protocol. metrics: read /metrics. admin: change what answers."""
ROLES: tuple[Role, ...] = get_args(Role)

SHORTEST = 32
"""Characters. A key of a keys file is long enough that nobody guesses it from its hash: shorter ones are refused."""


class Limits(NamedTuple):
    """What a key may spend; None: as much as the server has.

    Attributes:
        requests_per_second: requests for actions.
        rows_per_second: network rows (observations x candidates, as granted).
    """

    requests_per_second: float | None = None
    rows_per_second: float | None = None


UNLIMITED = Limits()


@dataclass(frozen=True)
class Key:
    """A key by its name. It may have several secrets, the old one and the new one while it is changed.

    Attributes:
        name: for people and metrics.
        roles: what it is good for.
        digests: of its secrets, see `digest_of`.
        limits: what its holders may spend together.
        shortest: fewest characters of a secret.
    """

    name: str
    roles: frozenset[Role]
    digests: tuple[bytes, ...]
    limits: Limits = UNLIMITED
    shortest: int = SHORTEST


def new_secret() -> str:
    """256 random bits in 48 characters. The prefix lets scanners of repositories and logs find keys that leaked."""
    return f"sorl_{secrets.token_urlsafe(32)}"


def digest_of(secret: str) -> bytes:
    """SHA-256. Slow hashes (scrypt, argon2) are for passwords, which can be guessed; 256 random bits can't, however
    fast the hash is. It costs about 1 us a request, where a slow one would cost more than the answer.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
