"""`command`: decorator for the `main` of a command. Failures end with an exit status and one line, not a traceback.

It is here because every package may import `kernels`, and `kernels` itself imports no torch, so `--help` stays fast.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import IO, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 128 + signal.SIGINT  # 130, as shells count
READER_GONE = 128 + getattr(signal, "SIGPIPE", 13)  # 141


def command(
    name: str, *refused: type[Exception], interrupted: str = "interrupted"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a command's `main`.

    The process exits with
        1    on an error of `refused`, printed as "NAME: message";
        130  on Ctrl-C (KeyboardInterrupt), printed as the exception's own text or `interrupted`;
        141  when its output pipe is closed, as by `sorl-train --help | head -3`; nothing is printed.

    Args:
        name: the command, e.g. "sorl-train".
        refused: errors that the user can fix.
        interrupted: the message for Ctrl-C, e.g. "interrupted: run the same command again to continue".
    """

    def decorate(main: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                try:
                    return main(*args, **kwargs)
                finally:
                    sys.stdout.flush()  # here, where a closed pipe can still be handled, not at the interpreter's end
            except KeyboardInterrupt as interrupt:
                print(str(interrupt) or interrupted, file=sys.stderr)
                raise SystemExit(INTERRUPTED) from None
            except BrokenPipeError:  # before `refused`, which may include OSError
                if not _drop_closed(sys.stdout, sys.stderr):
                    raise  # another pipe, for example to a worker process
                raise SystemExit(READER_GONE) from None
            except refused as error:
                raise SystemExit(f"{name}: {error}") from None

        return run

    return decorate


def _drop_closed(*streams: IO[str]) -> bool:
    """Redirect those of `streams` whose pipe is closed to /dev/null, so that the last flush succeeds.

    Returns whether there was one.
    """
    dropped = False
    for stream in streams:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            dropped = True
    return dropped
