"""A fake cloud for each test."""

from collections.abc import Iterator

import pytest

from camsdk.client import Client, RetryPolicy
from support.fake_api import FakeCloud


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """Runs for one test."""
    fake = FakeCloud()
    yield fake
    fake.break_streams()
    fake.stop()


@pytest.fixture
def client(cloud: FakeCloud) -> Iterator[Client]:
    """An administrator's; its pauses are short, so that tests of retries are."""
    with cloud.client(retry=RetryPolicy(first_delay_s=0.02)) as connected:
        yield connected
