"""Questions to the library that need PyTorch, answered by a child process while the window stays alive."""

from __future__ import annotations

import json
from typing import Any, Callable

from .Worker import SUCCEEDED, Worker


class Query:
    """One command of ``cyclereg`` that prints JSON.

    >>> query = Query(["devices", "--json"], show, complain)              # doctest: +SKIP

    Parameters
    ----------
    onAnswer
        Called with what the command printed.
    onError
        Called with the message if it failed; with neither if it was stopped.
    """

    def __init__(
        self, arguments: list[str], onAnswer: Callable[[Any], None], onError: Callable[[str], None] | None = None
    ) -> None:
        self._onAnswer = onAnswer
        self._onError = onError or (lambda message: None)
        self._stopped = False
        self._worker = Worker(lambda stage, percent: None, self._onEnd)
        self._worker.start(arguments)

    def stop(self) -> None:
        """Nobody wants the answer any more."""
        self._stopped = True
        self._worker.cancel()

    def _onEnd(self, outcome: str, message: str) -> None:
        if self._stopped:
            return
        if outcome != SUCCEEDED:
            self._onError(message)
            return
        try:
            answer = json.loads("\n".join(self._worker.output))
        except ValueError:
            self._onError("\n".join(self._worker.output[-3:]))
            return
        self._onAnswer(answer)
