"""Fixtures of the cloud's suites."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.embedded_cloud import CloudHarness, embedded_cloud


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[CloudHarness]:
    """A real embedded cloud on free ports."""
    async with embedded_cloud(tmp_path / "data") as harness:
        yield harness
