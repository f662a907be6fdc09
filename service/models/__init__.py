"""Which policies are served, in which versions: loading them, finding them by name, and reloading them."""

from service.models.catalog import Catalog, CatalogError
from service.models.loading import Loader, MakeBackend
from service.models.model import Model
from service.models.reload import Reloader

__all__ = ["Catalog", "CatalogError", "Loader", "MakeBackend", "Model", "Reloader"]
