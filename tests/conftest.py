"""Fixtures that every suite may use."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from camsdk.artifact.manifest import Manifest

# Where a change is judged, the same examples each time; where it is written, new ones.
settings.register_profile("judge", derandomize=True)
if os.environ.get("CI") == "true":
    settings.load_profile("judge")


@pytest.fixture(scope="session")
def vtest_path() -> Path:
    """The clip ``vtest.avi``, fetched by its pin; 768x576, 795 frames, 10 fps."""
    from camsdk import assets

    return assets.pull("vtest.avi")


@pytest.fixture(scope="session")
def int8_detector() -> tuple[Manifest, Mapping[str, bytes]]:
    """NanoDet-g, imported from its published graph and quantized to int8; half a minute."""
    from camsdk.compress import nanodet

    return nanodet.build()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole systems have budgets of time and memory: no other test beside them."""
    tests = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(tests / "e2e") or item.path.is_relative_to(tests / "faults"):
            item.add_marker(pytest.mark.alone)
