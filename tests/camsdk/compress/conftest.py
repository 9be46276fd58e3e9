"""What tests of compression share."""

from collections.abc import Iterator

import pytest

from camsdk.compress import engines
from camsdk.compress.report import probes


@pytest.fixture(scope="module", autouse=True)
def only_the_own_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reports time models in onnxruntime alone: each other engine takes seconds to start.

    Modules marked ``engines`` time them all.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("engines") is None:
            for module in (engines, probes):
                patch.setattr(module, "is_installed", lambda engine: engine == "onnxruntime")
        yield
