"""Exceptions that carry a message meant for the person who runs CycleReg.

The command line maps them to exit statuses (see :mod:`CycleRegLib.cli`); the panel shows their text.
"""

from __future__ import annotations

from contextvars import ContextVar


class CycleRegError(Exception):
    """Base class of every error that CycleReg raises on purpose.  ``exit_status`` is the command line's."""

    exit_status = 1


class InputError(CycleRegError):
    """Something the user gave cannot be used.  The text says what is wrong and how to mend it."""

    exit_status = 2


class ConfigurationError(InputError, ValueError):
    """A network cannot be built so.

    Also a ValueError, as constructors raise, so that a reader of checkpoints can add whose configuration it is; where
    nobody does, the message stands alone.
    """


class OutOfMemoryError(CycleRegError):
    """Memory ran out after every fallback was tried."""

    exit_status = 3


class Cancelled(CycleRegError):
    """The user cancelled; nothing was written."""

    exit_status = 130

    def __init__(self, message: str = "Cancelled; nothing was written.") -> None:
        super().__init__(message)


#: Where the warnings about a pair are collected by the thread that works on it, if several pairs are under way at once.
pair_warnings: ContextVar[list[str] | None] = ContextVar("pair_warnings", default=None)


class CycleRegWarning(UserWarning):
    """Something the user should know although the work goes on.

    Python keeps the warnings of all threads in one place; ``pair`` tells which pair a warning is about.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.pair = pair_warnings.get()
        if self.pair is not None:
            self.pair.append(str(self))


def is_about_this_pair(warning: Warning | str) -> bool:
    """Whether a recorded warning is CycleReg's and about the pair that this thread works on."""
    return isinstance(warning, CycleRegWarning) and warning.pair is pair_warnings.get()
