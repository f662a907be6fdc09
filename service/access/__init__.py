"""Who may do what, and how much of it a second: the keys of robots, monitoring and operators."""

from service.access.access import Access
from service.access.caller import Caller
from service.access.key_source import KeysError, KeySource
from service.access.keys import Role

__all__ = ["Access", "Caller", "KeySource", "KeysError", "Role"]
