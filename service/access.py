"""Keys: who may ask for actions, and who may change what answers."""

from __future__ import annotations

import hmac

from fastapi import Request
from pydantic import SecretStr

from service.errors import AdminDisabled, Unauthorized
from service.settings import Settings


def check_key(settings: Settings, request: Request) -> None:
    """Raises Unauthorized unless `request` carries the API key, where one is set."""
    if settings.api_key is not None:
        _check(request, settings.api_key, "key")


def check_admin_key(settings: Settings, request: Request) -> None:
    """Raises AdminDisabled where no admin key is set, Unauthorized for a request without it.

    The API key does not do: robots hold it, and one robot must not be able to change the policy of all.
    """
    if settings.admin_key is None:
        raise AdminDisabled("admin calls are off: this server was started without an admin key (SORL_ADMIN_KEY)")
    _check(request, settings.admin_key, "admin key")


def _check(request: Request, key: SecretStr, name: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # compare_digest takes as long for a wrong first character as for a wrong last one.
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.get_secret_value().encode()):
        raise Unauthorized(f"expected 'Authorization: Bearer KEY' with this server's {name}")
