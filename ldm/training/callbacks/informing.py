"""What only informs never ends a training: logs, curves, pictures, progress, profiles."""

from __future__ import annotations

import contextlib
import logging
from types import TracebackType

from ldm.files import reason

logger = logging.getLogger(__name__)


class OnlyInforms:
    """A block whose errors are one warning, the first time, and otherwise nothing.

    What a run needs to go on, such as data and checkpoints, is no matter of such a block. Requests
    to end (``Stop``, Ctrl-C) go through.

    Args:
        what: is done in it, the beginning of the warning.

    Attributes:
        failed: whether there was an error.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.failed = False

    def __enter__(self) -> OnlyInforms:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not self.failed:
            self.failed = True
            with contextlib.suppress(Exception):  # there may be nobody to tell any more
                logger.warning(
                    "warning: %s: %s; training goes on without", self._what, _words(error)
                )
        return True


def _words(error: BaseException) -> str:
    """The system's word, where another library only passed it on."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return reason(cause)
    return f"{type(error).__name__}: {reason(error)}"
