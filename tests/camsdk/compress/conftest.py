"""What tests of compression share."""

from collections.abc import Iterator

import pytest

from support.engines import leave_only_our_own


@pytest.fixture(scope="module", autouse=True)
def only_the_own_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """But for modules marked ``engines``."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("engines") is None:
            leave_only_our_own(patch)
        yield
