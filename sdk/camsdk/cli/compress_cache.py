"""What ``camctl model compress`` keeps in the user's cache, and for how long."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

_DAY_S: Final = 86400.0
_KEPT_DAYS: Final = 30
"""Of what is not written to. Until it is cleared its own command goes on from it."""


def cache_folder(kind: Literal["trainings", "profiles"]) -> Path:
    """Of the user."""
    import platformdirs

    return platformdirs.user_cache_path("camplatform") / kind


def clear_abandoned() -> None:
    """Checkpoints and roundings in the cache that nobody has written to for a month.

    For the end of a training: before it, what it goes on from may be among them. Others' files
    stay, and so does what cannot be removed: that ends no command.
    """
    from camsdk.compress.rounding_file import SUFFIX as ROUNDING
    from camsdk.compress.training.compressing import SUFFIX as TRAINING

    oldest_s = time.time() - _KEPT_DAYS * _DAY_S
    with suppress(OSError):
        for file in list(cache_folder("trainings").iterdir()):
            if not {ROUNDING, TRAINING} & set(file.suffixes):  # a draft ends otherwise
                continue
            with suppress(OSError):
                if file.is_file() and file.stat().st_mtime < oldest_s:
                    file.unlink()
