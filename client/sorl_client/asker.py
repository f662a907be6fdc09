"""Questions in the background, for a control loop that must not wait for their answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from sorl_client.action import Action


class Came(NamedTuple):
    """What came of the question of tick `number`; when it was asked and when it came, on the loop's clock."""

    number: int
    outcome: Action | Exception
    asked: float
    at: float


class Asker(Protocol):
    """Asks in the background, for one tick at a time."""

    def ask(self, number: int, question: Callable[[], Action]) -> None:
        """Ask for tick `number`, as soon as the question before has its answer. Replaces a question that waits."""

    def receive(self, number: int, until: float) -> list[Came]:
        """What came since the last call, in its order. Waits for tick `number`'s, at most until a time of the clock;
        number -1 waits for nothing."""

    def close(self) -> None: ...


class ThreadAsker:
    """An `Asker` with one daemon thread: one question at a time is under way, and the newest waits for it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: tuple[int, Callable[[], Action], float] | None = None
        self._came: list[Came] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def ask(self, number: int, question: Callable[[], Action]) -> None:
        """See `Asker`."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the control loop is closed")
            self._waiting = number, question, self._clock()
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sorl-control-loop", daemon=True)
                self._thread.start()

    def receive(self, number: int, until: float) -> list[Came]:
        """See `Asker`."""
        with self._changed:
            while all(one.number != number for one in self._came) and (left_s := until - self._clock()) > 0.0:
                self._changed.wait(left_s)
            came, self._came = self._came, []
        return came

    def close(self) -> None:
        """See `Asker`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closed:
                    self._changed.wait()
                if self._closed or self._waiting is None:
                    return
                number, question, asked = self._waiting
                self._waiting = None
            outcome: Action | Exception
            try:
                outcome = question()
            except Exception as error:
                outcome = error
            with self._changed:
                self._came.append(Came(number, outcome, asked, self._clock()))
                self._changed.notify_all()
            del question, outcome  # they would live until the next question
