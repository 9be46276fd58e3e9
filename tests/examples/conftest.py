"""The examples as modules, and a fake cloud in a data folder that they find by ``--data``."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from support.fake_api import ADMIN, FakeCloud

EXAMPLES = Path(__file__).parents[2] / "sdk" / "examples"


def load(name: str) -> ModuleType:
    """The example as a module; running it as a script is tested apart."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """Runs for one test."""
    fake = FakeCloud()
    yield fake
    fake.break_streams()
    fake.stop()


@pytest.fixture
def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    """What ``camctl serve`` would leave."""
    folder = tmp_path / "cloud"
    (folder / "pki").mkdir(parents=True)
    (folder / "admin.token").write_text(ADMIN)
    (folder / "pki" / "ca.pem").write_bytes(cloud.tls.ca_pem)
    (folder / "ready.json").write_text(json.dumps({"api": f"127.0.0.1:{cloud.port}"}))
    return folder
