"""Who may do what: the keys of robots and operators."""

from service.access.keys import Access, Role

__all__ = ["Access", "Role"]
