"""What tests of compression share."""

import pytest

from camsdk.compress import engines
from camsdk.compress.report import probes


@pytest.fixture(autouse=True)
def only_the_own_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports time models in onnxruntime alone: each other engine takes seconds to start.

    Tests marked ``engines`` time them all.
    """
    if request.node.get_closest_marker("engines") is None:
        for module in (engines, probes):
            monkeypatch.setattr(module, "is_installed", lambda engine: engine == "onnxruntime")
