"""Routes that FastAPI documents and an ASGI application of ours answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi.routing import APIRoute
from starlette.types import ASGIApp


class DirectRoute(APIRoute):
    """A POST that `Application` matches ahead of FastAPI's own layers. Middleware that a host adds is run for it too.

    Args:
        path: with names of parts in braces, which `answer` finds in the scope's path_params.
        answer: limits bodies and turns errors into replies itself.
        documented: its parameters and docstring are in /docs; never called.
        described: further options of `APIRoute`, for /docs.
    """

    def __init__(self, path: str, answer: ASGIApp, documented: Callable[..., Any], **described: Any) -> None:
        super().__init__(path, documented, methods=["POST"], response_model=None, **described)
        self.app = answer

    def match(self, path: str) -> re.Match[str] | None:
        """The parts of `path`, if it is this route's."""
        return self.path_regex.match(path)
