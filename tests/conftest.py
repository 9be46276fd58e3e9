"""Fixtures that every suite may use."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vtest_path() -> Path:
    """The clip ``vtest.avi``, fetched by its pin; 768x576, 795 frames, 10 fps."""
    from camsdk import assets

    return assets.pull("vtest.avi")
