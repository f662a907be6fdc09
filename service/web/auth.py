"""Keys: who may ask for actions, and who may change what answers."""

from __future__ import annotations

import hmac

from pydantic import SecretStr

from service.errors import AdminDisabled, Unauthorized


def check_key(key: SecretStr | None, authorization: str | None) -> None:
    """Raises Unauthorized unless the header `authorization` holds the API key; None: everybody may ask."""
    if key is not None:
        _check(authorization, key, "key")


def check_admin_key(key: SecretStr | None, authorization: str | None) -> None:
    """Raises AdminDisabled without an admin key, and Unauthorized for a header that does not hold it.

    The API key does not suffice: robots hold it, and one robot must not be able to change the policy of all.
    """
    if key is None:
        raise AdminDisabled("admin calls are off: this server was started without an admin key (SORL_ADMIN_KEY)")
    _check(authorization, key, "admin key")


def _check(authorization: str | None, key: SecretStr, name: str) -> None:
    scheme, _, given = (authorization or "").partition(" ")
    # compare_digest takes the same time wherever the first wrong character is.
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.get_secret_value().encode()):
        raise Unauthorized(f"expected 'Authorization: Bearer KEY' with this server's {name}")
