"""`parse_arguments`: a command's config from its command line."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import tyro

C = TypeVar("C")


def parse_arguments(config: type[C]) -> C:
    """The config that the command line describes. tyro prints help and misspelt flags, and ends the process.

    Raises:
        ValueError: as the constructor of `config`, a dataclass. tyro would catch it and print it in a frame that breaks
            lines; from here it reaches `kernels.commands.command`, which prints one.
    """
    unchecked = type(config.__name__, (config,), {"__doc__": config.__doc__, "__post_init__": lambda self: None})
    parsed: Any = tyro.cli(cast(type[C], unchecked))
    return config(**vars(parsed))
