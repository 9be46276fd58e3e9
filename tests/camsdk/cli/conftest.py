"""``camctl`` in this process: its arguments in, its exit code and both outputs back."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from camsdk.cli.main import main
from support.fake_api import ADMIN, FakeCloud


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The whole output as one JSON value; fails if there is anything else in it."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The output as one JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Camctl = Callable[..., Outcome]


@pytest.fixture
def camctl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Camctl:
    """Runs ``camctl`` with a home of its own: no profile, no embedded cloud, no CAMCTL_* set."""
    for name in ("SERVER", "TOKEN", "TOKEN_FILE", "CA", "PROFILE", "DATA"):
        monkeypatch.delenv(f"CAMCTL_{name}", raising=False)
    monkeypatch.setenv("CAMCTL_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["camctl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def cloud(camctl: Camctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCloud]:
    """A fake cloud that ``camctl`` is told of by the environment."""
    fake = FakeCloud()
    token, ca = tmp_path / "token", tmp_path / "ca.pem"
    token.write_text(ADMIN + "\n")
    ca.write_bytes(fake.tls.ca_pem)
    monkeypatch.setenv("CAMCTL_SERVER", fake.endpoint)
    monkeypatch.setenv("CAMCTL_TOKEN_FILE", str(token))
    monkeypatch.setenv("CAMCTL_CA", str(ca))
    yield fake
    fake.break_streams()
    fake.stop()
