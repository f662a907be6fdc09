"""Calls that a browser makes for a page of another site, whose user may know nothing of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from service.errors import CrossSite


def refuse_cross_site(headers: Mapping[bytes, bytes], allowed: Collection[str] = ()) -> None:
    """Raises CrossSite for a call that a browser makes for the page of another site, whatever key it brings.

    Browsers say where a call comes from, and pages can't change what they say: all in Origin, newer ones in
    Sec-Fetch-Site too. Programs send neither. It is for calls that browsers make without asking the server first, as
    they do before POST /act.

    Args:
        headers: by lower-case names.
        allowed: origins of other sites whose pages may call.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if origin is not None and origin.decode("latin-1") in allowed:
        return
    if site in (b"cross-site", b"same-site"):
        raise CrossSite(f"calls of other sites' pages are refused (Sec-Fetch-Site: {site.decode('ascii')})")
    # By host and port alone: a proxy may have ended TLS, and then the scheme is another one here. Pages without a site
    # of their own, as files and sandboxed frames, send "null".
    if origin is not None and origin.partition(b"://")[2].lower() != headers.get(b"host", b"-").lower():
        raise CrossSite("calls of other sites' pages are refused (Origin is not Host)")
