"""Which of several training processes this one is."""

from __future__ import annotations

from pytorch_lightning.utilities import rank_zero_only


def is_main_process() -> bool:
    """True in the one process that writes files and speaks to the user.

    Also before Lightning has connected the processes: launchers announce the rank in the
    environment.
    """
    return bool(getattr(rank_zero_only, "rank", 0) == 0)
