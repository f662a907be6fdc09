"""Everything that knows ASGI: POST /act, the other routes, keys, the page, and the HTTP protocol under them."""

from service.web.act import Act
from service.web.admin import admin_routes
from service.web.application import make_application, prepare
from service.web.http_protocol import ConnectionLimits, HttpProtocol
from service.web.open_inference import infer_routes, open_inference_routes
from service.web.openpi import Websockets
from service.web.page import page_routes
from service.web.routes import public_routes

__all__ = [
    "Act",
    "ConnectionLimits",
    "HttpProtocol",
    "Websockets",
    "admin_routes",
    "infer_routes",
    "make_application",
    "open_inference_routes",
    "page_routes",
    "prepare",
    "public_routes",
]
