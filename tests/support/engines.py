"""Which engines a test's times are taken in."""

import pytest

from camsdk.compress import engines
from camsdk.compress.report import probes


def leave_only_our_own(patch: pytest.MonkeyPatch) -> None:
    """Time models in onnxruntime alone: each other engine takes seconds to start."""
    for module in (engines, probes):
        patch.setattr(module, "is_installed", lambda engine: engine == "onnxruntime")
