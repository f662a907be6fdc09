"""`Access`: checks the key that a request brings, and follows the keys file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from service.access.caller import ANYONE, Caller
from service.access.key_source import KeysError, KeySource
from service.access.keys import Key, Role, digest_of
from service.errors import AdminDisabled, Unauthorized

log = logging.getLogger(__name__)

SCHEMES = ("bearer", "api-key")
POLL_SECONDS = 2.0


class Access:
    """Knows the keys. The key of one role does not do for another: robots hold the first, and one robot must not be
    able to change the policy of all.

    A role without keys is open, but for admin, which is off. A role that has been closed stays closed while the process
    lives: taking away its last key lets nobody in, rather than everybody. A keys file, or SORL_KEYS, closes act
    whatever it holds.

    Belongs to the event loop.

    Args:
        source: where keys come from.
        clock: seconds.

    Attributes:
        on_keys: called with the names of the keys, once they have changed.
        stale: the last reload found keys that can't be used, and those before are in force.

    Raises:
        KeysError: see `KeySource.read`.
    """

    def __init__(self, source: KeySource, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_keys: Callable[[Collection[str]], None] = lambda names: None
        self.stale = False
        self._source = source
        self._clock = clock
        self._closed: set[Role] = {"admin"}
        if source.text is not None or source.file is not None:
            self._closed.add("act")
        self._keys: list[Key] = []
        self._callers: dict[str, Caller] = {}
        self._held: dict[bytes, tuple[Key, Caller]] = {}
        self._file = source.state_of_file()
        self._lock = asyncio.Lock()
        self._replace(source.read())

    @property
    def names(self) -> Collection[str]:
        """The names of all keys."""
        return self._callers.keys()

    @property
    def follows_file(self) -> bool:
        """Is there a keys file?"""
        return self._source.file is not None

    def check(self, role: Role, credential: str | None) -> Caller:
        """Who asks.

        Args:
            role: what the caller wants to do.
            credential: scheme and key, as in the HTTP header Authorization.

        Raises:
            Unauthorized: there is no key of `role` in it.
            AdminDisabled: there is no admin key to hold.
        """
        if role not in self._closed:
            return ANYONE
        scheme, _, given = (credential or "").partition(" ")
        if scheme.lower() in SCHEMES:
            secret = given.strip()
            # How long it takes to find a digest says something about digests at most. To steer by it, a caller would
            # have to choose the SHA-256 of what it sends, so nothing is learnt about a key.
            key, caller = self._held.get(digest_of(secret), (None, ANYONE))
            if key is not None and len(secret) >= key.shortest and role in key.roles:
                return caller
        if role == "admin" and not any("admin" in key.roles for key in self._keys):
            raise AdminDisabled("admin calls are off: this server has no key of the role admin (SORL_ADMIN_KEY)")
        name = "key" if role == "act" else f"{role} key"
        raise Unauthorized(f"expected 'Authorization: Bearer KEY' with this server's {name}")

    async def reload(self) -> None:
        """Read the keys again. Keys that can't be used leave those that are known, and a line in the log."""
        async with self._lock:
            self._file, keys = await asyncio.to_thread(self._read)
            self.stale = isinstance(keys, KeysError)
            if isinstance(keys, KeysError):
                log.error("keys not changed: %s", keys)
            elif keys != self._keys:
                self._replace(keys)
                log.info("keys changed: there are %d", len(keys))
                self.on_keys(self.names)

    async def follow(self, every: float = POLL_SECONDS) -> None:
        """`reload` whenever the file has changed, until this is cancelled. `every`: seconds between looks."""
        while True:
            await asyncio.sleep(every)
            if await asyncio.to_thread(self._source.state_of_file) != self._file:
                await self.reload()

    def _read(self) -> tuple[tuple[int, ...], list[Key] | KeysError]:
        state = self._source.state_of_file()  # before its content: a write between the two is seen at the next look
        try:
            return state, self._source.read()
        except KeysError as error:
            return state, error

    def _replace(self, keys: list[Key]) -> None:
        callers = {}
        for key in keys:
            known = self._callers.get(key.name)
            # What a caller has spent stays spent, unless its limits are new.
            same = known is not None and known.limits == key.limits
            callers[key.name] = known if known is not None and same else Caller(key.name, key.limits, self._clock)
            self._closed |= key.roles
        self._keys, self._callers = keys, callers
        self._held = {digest: (key, callers[key.name]) for key in keys for digest in key.digests}
