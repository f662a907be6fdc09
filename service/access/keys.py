"""Keys: who may ask for actions, and who may change what answers."""

from __future__ import annotations

import hmac
from typing import Literal

from service.errors import AdminDisabled, Unauthorized

Role = Literal["act", "admin"]


class Access:
    """Knows the keys. The key of one role does not do for another: robots hold the first, and one robot must not be
    able to change the policy of all.

    Args:
        act: what requests for actions must bring; None: everybody may ask.
        admin: what operators' calls must bring; None: they are off.
    """

    def __init__(self, *, act: str | None, admin: str | None) -> None:
        self._keys: dict[Role, str | None] = {"act": act, "admin": admin}

    def check(self, role: Role, authorization: str | None) -> None:
        """Raises Unauthorized unless `authorization`, the header's value, holds a key of `role`; AdminDisabled if
        there is no such key to hold.
        """
        key = self._keys[role]
        if key is None:
            if role == "admin":
                raise AdminDisabled(
                    "admin calls are off: this server was started without an admin key (SORL_ADMIN_KEY)"
                )
            return
        scheme, _, given = (authorization or "").partition(" ")
        # compare_digest takes the same time wherever the first wrong character is.
        if scheme.lower() not in ("bearer", "api-key") or not hmac.compare_digest(given.strip().encode(), key.encode()):
            name = "key" if role == "act" else "admin key"
            raise Unauthorized(f"expected 'Authorization: Bearer KEY' with this server's {name}")
