"""The doctor finds what is wrong, and says how to mend it."""

import resource
import time
from collections import namedtuple
from pathlib import Path

import pytest

from camproto.v1 import api_pb2
from camsdk.assets import list_assets
from camsdk.cli import checks
from camsdk.cli.checks import Check, Verdict
from camsdk.cli.cloud_checks import check_certificate, check_clock
from camsdk.client.messages import cloud_status
from support.fake_api import READER, FakeCloud
from support.tls import server_tls

from .conftest import Camctl

Usage = namedtuple("Usage", "total used free")


def _found(outcome_json: dict[str, object], name: str) -> dict[str, str]:
    rows = [row for row in outcome_json["checks"] if row["name"] == name]  # type: ignore[attr-defined] # JSON
    assert len(rows) == 1, name
    return rows[0]


def test_a_good_setup_is_healthy(
    cloud: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAMCTL_ASSETS", str(tmp_path / "assets"))
    outcome = camctl("doctor", "--json")
    assert outcome.code == 0, outcome.json
    assert outcome.json["is_healthy"]
    verdicts = {row["name"]: row["verdict"] for row in outcome.json["checks"]}
    assert {name for name, verdict in verdicts.items() if verdict == "ok"} >= {
        "python", "packages", "cloud packages", "video", "cloud", "credentials",
        "certificate", "clock",
    }  # fmt: skip
    assert _found(outcome.json, "assets")["hint"].startswith("camctl assets pull")
    table = camctl("doctor")
    assert "trusted, in force for" in table.out


def test_without_a_cloud_the_rest_is_looked_at(camctl: Camctl) -> None:
    outcome = camctl("doctor", "--json")
    assert _found(outcome.json, "cloud")["verdict"] == "skipped"
    assert _found(outcome.json, "video")["verdict"] == "ok"


def test_the_disk_is_the_one_that_was_named(camctl: Camctl, tmp_path: Path) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    outcome = camctl("doctor", "--data", str(folder), "--json")
    assert _found(outcome.json, "disk")["detail"].endswith(f"free at {folder}")


def test_an_absent_cloud_fails(cloud: FakeCloud, camctl: Camctl) -> None:
    cloud.stop()
    outcome = camctl("doctor", "--json")
    assert outcome.code == 1
    assert _found(outcome.json, "cloud")["verdict"] == "failed"
    assert _found(outcome.json, "certificate")["verdict"] == "skipped"
    cloud.start()


def test_unknown_credentials_fail(
    cloud: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAMCTL_TOKEN_FILE")
    monkeypatch.setenv("CAMCTL_TOKEN", "wrong")
    outcome = camctl("doctor", "--json")
    assert outcome.code == 1
    assert _found(outcome.json, "credentials")["verdict"] == "failed"
    monkeypatch.setenv("CAMCTL_TOKEN", READER)
    assert camctl("doctor", "--json").code == 0


def test_another_clouds_certificate_fails(cloud: FakeCloud, camctl: Camctl, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(server_tls("another CA").ca_pem)
    outcome = camctl("doctor", "--ca", other, "--json")
    assert outcome.code == 1
    assert _found(outcome.json, "certificate")["verdict"] == "failed"
    assert "--ca" in _found(outcome.json, "certificate")["hint"]


@pytest.mark.parametrize(
    ("days", "verdict"), [(30, Verdict.OK), (3, Verdict.WARNING), (-1, Verdict.FAILED)]
)
def test_certificates_about_to_expire(days: int, verdict: Verdict) -> None:
    cloud = FakeCloud(server_tls("test CA", days))
    check = check_certificate("127.0.0.1", cloud.port, cloud.tls.ca_pem)
    cloud.stop()
    assert check.verdict is verdict, check
    assert bool(check.hint) == (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("skew_s", "verdict"),
    [(0.5, Verdict.OK), (-10.0, Verdict.WARNING), (300.0, Verdict.FAILED)],
)
def test_clocks(skew_s: float, verdict: Verdict) -> None:
    now_s = time.time()
    status = cloud_status(api_pb2.CloudStatus(now_timestamp_s=now_s + skew_s))
    assert check_clock(status, now_s - 0.1, now_s + 0.1).verdict is verdict


def test_a_slow_answer_is_no_skew() -> None:
    status = cloud_status(api_pb2.CloudStatus(now_timestamp_s=104.0))
    assert check_clock(status, 100.0, 110.0).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("free", "verdict"),
    [(1 << 40, Verdict.OK), (1 << 30, Verdict.WARNING), (1 << 20, Verdict.FAILED)],
)
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, verdict: Verdict) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage(1 << 40, 0, free))
    check = checks.check_disk(tmp_path / "not" / "yet")
    assert check.verdict is verdict
    assert str(tmp_path) in check.detail


def test_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, 4096))
    check = checks.check_open_files()
    assert check.verdict is Verdict.WARNING
    assert "ulimit -n" in check.hint


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LIGHT_PACKAGES", ("numpy", "no-such-package"))
    assert checks.check_packages() == Check(
        "packages", Verdict.FAILED, "missing: no-such-package", "pip install camplatform"
    )
    monkeypatch.setattr(checks, "LIGHT_PACKAGES", ("numpy",))
    monkeypatch.setattr(checks, "NATIVE_MODULES", ("no_such_module",))
    assert "no_such_module does not load" in checks.check_packages().detail
    monkeypatch.setattr(checks, "CLOUD_PACKAGES", ("no-such-package",))
    assert checks.check_cloud_packages().verdict is Verdict.WARNING


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MIN_PYTHON", (99, 0))
    assert checks.check_python().verdict is Verdict.FAILED


def test_damaged_assets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAMCTL_ASSETS", str(tmp_path))
    assert checks.check_assets().verdict is Verdict.WARNING
    smallest = min(list_assets(), key=lambda asset: asset.size_bytes)
    smallest.path.write_bytes(bytes(smallest.size_bytes))
    assert checks.check_assets().verdict is Verdict.FAILED
