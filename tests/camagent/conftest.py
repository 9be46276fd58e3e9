"""Fixtures of the agent's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from camagent.enrolment import enroll
from camagent.identity import Identity, save_identity
from camagent.link import CloudLink
from camsdk.wire.tokens import decode_token
from support.fake_cloud import FakeCloud


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A cloud in memory."""
    cloud = FakeCloud()
    yield cloud
    cloud.close()


@pytest.fixture
def identity(cloud: FakeCloud, tmp_path: Path) -> Identity:
    """A device ``gate-1`` that is enrolled in ``cloud``, kept in ``tmp_path``."""
    identity = enroll(decode_token(cloud.token), hardware="cpu-x86_64", name="gate-1")
    save_identity(identity, tmp_path)
    return identity


@pytest.fixture
def link(identity: Identity, tmp_path: Path) -> Iterator[CloudLink]:
    """The device's channel."""
    link = CloudLink(identity, tmp_path)
    yield link
    link.close()
