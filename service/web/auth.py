"""Keys: who may ask for actions, and who may change what answers."""

from __future__ import annotations

import hmac

from pydantic import SecretStr

from service.errors import AdminDisabled, Unauthorized
from service.settings import Settings


def check_key(settings: Settings, authorization: str | None) -> None:
    """Raises Unauthorized unless the header `authorization` has the API key, where one is set."""
    if settings.api_key is not None:
        _check(authorization, settings.api_key, "key")


def check_admin_key(settings: Settings, authorization: str | None) -> None:
    """Raises AdminDisabled where no admin key is set, Unauthorized for a header without it.

    The API key does not do: robots hold it, and one robot must not be able to change the policy of all.
    """
    if settings.admin_key is None:
        raise AdminDisabled("admin calls are off: this server was started without an admin key (SORL_ADMIN_KEY)")
    _check(authorization, settings.admin_key, "admin key")


def _check(authorization: str | None, key: SecretStr, name: str) -> None:
    scheme, _, given = (authorization or "").partition(" ")
    # compare_digest takes as long for a wrong first character as for a wrong last one.
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.get_secret_value().encode()):
        raise Unauthorized(f"expected 'Authorization: Bearer KEY' with this server's {name}")
