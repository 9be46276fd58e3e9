"""Where assets are kept, and where else they may be found. The one place that asks the environment.

The package is also used without ``camctl`` (tests, notebooks), so these two variables are read here
and not at a command's entry.
"""

import os
from pathlib import Path
from typing import Final

import platformdirs

FOLDER_VARIABLE: Final = "CAMCTL_ASSETS"
MIRROR_VARIABLE: Final = "CAMCTL_ASSETS_MIRROR"


def default_folder() -> Path:
    """``CAMCTL_ASSETS``, or the user's cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("camplatform") / "assets"


def default_mirror() -> Path | None:
    """``CAMCTL_ASSETS_MIRROR``, or none."""
    named = os.environ.get(MIRROR_VARIABLE)
    return Path(named) if named else None
