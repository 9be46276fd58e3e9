"""Every command group against a fake cloud: tables for people, JSON for programs, exit codes."""

import io
import json
import os
import threading
from pathlib import Path

import pytest

from camproto.v1 import api_pb2
from camsdk.artifact.bundle import read_unverified
from camsdk.cli.main import build_app
from camsdk.cli.output import printable
from camsdk.errors import InvalidInput
from support.artifacts import make_bundle
from support.fake_api import START_S, FakeCloud

from .conftest import Camctl


def test_fleets(cloud: FakeCloud, camctl: Camctl) -> None:
    empty = camctl("fleet", "list")
    assert (empty.code, empty.out) == (0, "")
    assert "camctl fleet create" in empty.err
    made = camctl("fleet", "create", "park-a", "--description", "the park", "--json")
    assert made.json["description"] == "the park"
    assert made.json["created_timestamp_s"] == START_S
    assert "park-a" in camctl("fleet", "list").out
    assert camctl("fleet", "list", "--json").json["fleets"][0]["name"] == "park-a"
    assert "the park" in camctl("fleet", "show", "park-a").out


def test_an_error_is_one_sentence_with_a_way_out(cloud: FakeCloud, camctl: Camctl) -> None:
    shown = camctl("fleet", "show", "nowhere")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == "camctl: no fleet is called 'nowhere'\n        create it\n"
    as_json = camctl("fleet", "show", "nowhere", "--json")
    assert as_json.code == 1
    assert as_json.json == {
        "error": {
            "reason": "not-found",
            "message": "no fleet is called 'nowhere'",
            "hint": "create it",
        }
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("fleet", "shw"),
        ("deploy", "model"),
        ("search",),
        ("search", "--event", "x", "--image", "/nowhere.png"),
        ("token", "create"),
        ("token", "create", "--fleet", "a", "--api", "b"),
        ("token", "create", "--fleet", "a", "--lifetime", "soon"),
        ("events", "list", "--since", "yesterday"),
        ("events", "list", "--limit", "0"),
        ("device", "label", "cam-1", "nonsense"),
        ("deploy", "model", "--fleet", "a", "--strategy", "fast"),
        ("model", "push", "/nowhere/x.cam"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    cloud: FakeCloud, camctl: Camctl, arguments: tuple[str, ...]
) -> None:
    outcome = camctl(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage: camctl" in outcome.err
    assert not cloud.state.calls


def test_tokens(cloud: FakeCloud, camctl: Camctl) -> None:
    camctl("fleet", "create", "park-a")
    outcome = camctl("token", "create", "--fleet", "park-a", "--count", "2", "--lifetime", "2h")
    assert outcome.out == "camtok1_0\ncamtok1_1\n"
    assert "camctl agent enroll" in outcome.err
    as_json = camctl("token", "create", "--fleet", "park-a", "--json").json
    assert as_json["expires_timestamp_s"] == START_S + 3600
    api = camctl("token", "create", "--api", "ann", "--read-only", "--json").json
    assert (api["token"], api["is_read_only"]) == ("camapi1_x", True)


def test_devices(cloud: FakeCloud, camctl: Camctl) -> None:
    assert "camctl token create" in camctl("device", "list").err
    cloud.add_device("cam-1")
    assert "connected" in camctl("device", "list", "--fleet", "park-a").out
    cloud.add_device("cam-new", is_connected=False)
    assert "last seen never" in " ".join(camctl("device", "show", "cam-new").out.split())
    camctl("device", "label", "cam-1", "gate=north", "old=x")
    labelled = camctl("device", "label", "cam-1", "old-", "--json").json
    assert labelled["labels"] == {"gate": "north"}
    shown = camctl("device", "show", "cam-1")
    assert "gate=north" in shown.out
    assert "detector:1" in shown.out
    assert "online" in shown.out
    revoked = camctl("device", "revoke", "cam-1", "--reason", "stolen", "--yes")
    assert "revoked" in revoked.out
    assert cloud.state.devices["cam-1"].is_revoked


def test_events(cloud: FakeCloud, camctl: Camctl) -> None:
    assert "camctl events tail" in camctl("events", "list").err
    for _ in range(3):
        cloud.add_event(
            rule="entry",
            track_id=7,
            class_name="person",
            attributes={"direction": "in"},
            xyxy=[1, 2, 3, 4],
        )
    listed = camctl("events", "list")
    assert listed.out.count("person #7 at entry (direction in)") == 3
    assert "there are more" not in listed.err
    cut = camctl("events", "list", "--limit", "2")
    assert cut.out.count("person #7") == 2
    assert "only the last 2 to arrive, there are more: --limit N" in cut.err
    assert "only the first 2" in camctl("events", "list", "--limit", "2", "--oldest-first").err
    assert "there are more" not in camctl("events", "list", "--limit", "3").err
    page = camctl("events", "list", "--limit", "2", "--json").json
    assert [row["cursor"] for row in page["events"]] == [30, 20]
    assert page["next_cursor"] == 20
    oldest = camctl("events", "list", "--oldest-first", "--kind", "line_crossed", "--json").json
    assert [row["sequence"] for row in oldest["events"]] == [1, 2, 3]
    shown = camctl("events", "show", "cam-1/7/2")
    assert "1.0 2.0 3.0 4.0 px" in shown.out
    assert "50 ms later" in shown.out
    assert camctl("events", "show", "cam-1/7/2", "--json").json["attributes"] == {"direction": "in"}


def test_an_events_crop_is_saved(cloud: FakeCloud, camctl: Camctl, tmp_path: Path) -> None:
    for _ in range(2):
        cloud.add_event()
    cloud.state.crops["cam-1/7/1"] = b"\xff\xd8 picture"
    path = tmp_path / "crop.jpg"
    saved = camctl("events", "show", "cam-1/7/1", "--save-crop", path, "--json")
    assert saved.json["event_id"] == "cam-1/7/1"
    assert path.read_bytes() == b"\xff\xd8 picture"
    assert "crop.jpg: JPEG of 10 bytes" in saved.err
    other = tmp_path / "other.jpg"
    missing = camctl("events", "show", "cam-1/7/2", "--save-crop", other)
    assert (missing.code, missing.out) == (1, "")
    assert "no crop" in missing.err
    assert not other.exists()
    nowhere = camctl("events", "show", "cam-1/7/1", "--save-crop", tmp_path / "no" / "crop.jpg")
    assert (nowhere.code, nowhere.out) == (1, "")
    assert "cannot be written" in nowhere.err


def test_events_beyond_one_page(cloud: FakeCloud, camctl: Camctl) -> None:
    for _ in range(1005):
        cloud.add_event()
    found = camctl("events", "list", "--limit", "2000", "--json").json
    assert [row["sequence"] for row in found["events"]] == list(range(1005, 0, -1))
    assert found["next_cursor"] == 0


def test_tail_prints_a_line_an_event(cloud: FakeCloud, camctl: Camctl) -> None:
    cloud.add_event()
    adder = threading.Timer(0.1, cloud.add_event)
    adder.start()
    followed = camctl("events", "tail", "--after-cursor", "0", "--limit", "2", "--json")
    adder.join()
    assert followed.code == 0
    assert [row["sequence"] for row in followed.lines] == [1, 2]
    shown = camctl("events", "tail", "--after-cursor", "0", "--seconds", "0.1")
    assert shown.out.count("line_crossed") == 2
    assert "Ctrl-C" in shown.err


def test_search(cloud: FakeCloud, camctl: Camctl, tmp_path: Path) -> None:
    nothing = camctl("search", "--event", "cam-1/7/1")
    assert "nothing looks like it" in nothing.err
    assert "hsv-stripes-128" in nothing.err
    cloud.state.hits.append(
        api_pb2.AppearanceHit(camera_id="yard", track_id=3, similarity=0.75, device_id="cam-2")
    )
    picture = tmp_path / "crop.png"
    picture.write_bytes(b"\x89PNG")
    found = camctl("search", "--image", picture, "--top-k", "3")
    assert "0.750" in found.out
    assert "yard" in found.out
    body = camctl("search", "--image", picture, "--json").json
    assert body["method"] == "hsv-stripes-128"
    assert body["hits"][0]["track_id"] == 3


def test_models(cloud: FakeCloud, camctl: Camctl, tmp_path: Path) -> None:
    assert "camctl model push" in camctl("model", "list").err
    bundle = tmp_path / "detector.cam"
    bundle.write_bytes(b"CAM" + bytes(1000))
    pushed = camctl("model", "push", bundle)
    assert pushed.out.startswith("detector:1  ")
    assert "camctl deploy model detector:1" in pushed.err
    assert camctl("model", "list", "--json").json["models"][0]["size_bytes"] == 1003
    assert "cpu-x86_64" in camctl("model", "list").out
    bundle.write_bytes(b"unsigned")
    assert camctl("model", "push", bundle, "--json").json["error"]["reason"] == "artifact-refused"


@pytest.mark.parametrize("reference", ["tiny", "tiny:1"])
def test_a_release_is_shown(cloud: FakeCloud, camctl: Camctl, reference: str) -> None:
    manifest = read_unverified(make_bundle(None)).manifest
    cloud.state.models[reference] = api_pb2.Model(
        name="tiny", version="1", digest="d" * 64, manifest_json=manifest.to_bytes().decode()
    )
    shown = camctl("model", "show", reference)
    assert shown.code == 0, shown.err
    assert "tiny:1" in shown.out
    assert "d" * 64 in shown.out
    body = camctl("model", "show", reference, "--json").json
    assert body["manifest"] == manifest.model_dump(mode="json")


def test_rules(cloud: FakeCloud, camctl: Camctl, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("lines: []\n")
    homeless = camctl("rules", "apply", "-f", rules)
    assert homeless.code == 1
    assert "there are 0 fleets" in homeless.err
    camctl("fleet", "create", "park-a")
    cloud.add_device("cam-1")
    applied = camctl("rules", "apply", "-f", rules, "--dry-run")
    assert applied.out == "rules dddddddddddd would reach 1 devices\n"
    camctl("fleet", "create", "park-b")
    assert "park-a, park-b" in camctl("rules", "apply", "-f", rules).err
    body = camctl("rules", "apply", "-f", rules, "--fleet", "park-b", "--json").json
    fields = {"rules_digest": "d" * 64, "device_count": 0, "is_dry_run": False}
    assert body == fields | {"warnings": []}
    cloud.state.rule_warnings = ["no device has reported the camera yard"]
    warned = camctl("rules", "apply", "-f", rules, "--fleet", "park-b")
    assert warned.out.startswith("rules dddddddddddd reach")
    assert warned.err == "note: no device has reported the camera yard\n"
    body = camctl("rules", "apply", "-f", rules, "--fleet", "park-b", "--json").json
    assert body["warnings"] == cloud.state.rule_warnings
    rules.write_text("zones: []\n")
    refused = camctl("rules", "apply", "-f", rules, "--fleet", "park-b")
    assert (refused.code, refused.out) == (1, "")
    assert "line 1" in refused.err
    rules.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in camctl("rules", "apply", "-f", rules, "--fleet", "park-b").err
    assert camctl("rules", "apply", "-f", tmp_path / "no", "--fleet", "x").code == 2
    assert camctl("rules", "apply", "-f", tmp_path, "--fleet", "x").code == 2


def test_wrong_rules_are_refused_with_a_way_out(
    cloud: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InvalidInput("line 3: a line needs a name")

    monkeypatch.setattr("camsdk.client.Client.apply_rules", refuse)
    rules = tmp_path / "rules.yaml"
    rules.touch()
    refused = camctl("rules", "apply", "-f", rules, "--fleet", "park-b", "--json")
    assert refused.code == 1
    assert refused.json["error"]["message"] == "line 3: a line needs a name"
    assert f"mend {rules}, then check it with --dry-run" in refused.json["error"]["hint"]
    monkeypatch.setattr("sys.stdin", io.StringIO("lines"))
    assert "mend the rules, then" in camctl("rules", "apply", "-f", "-", "--fleet", "park-b").err
    if os.geteuid() != 0:
        rules.chmod(0)
        assert camctl("rules", "apply", "-f", rules, "--fleet", "park-b").code == 2


def test_status(cloud: FakeCloud, camctl: Camctl) -> None:
    shown = camctl("status").out
    assert "fake (embedded)" in shown
    assert "5 events" in shown, "what is lost is told"
    body = camctl("status", "--json").json
    assert body["ingest"]["bytes_by_kind"] == {"tracks": 10, "events": 3}


def test_the_clouds_text_cannot_steer_the_terminal(cloud: FakeCloud, camctl: Camctl) -> None:
    camctl("fleet", "create", "park-a", "--description", "[red]x[/red]\x1b]0;owned\x07")
    shown = camctl("fleet", "list").out
    assert "\x1b" not in shown
    assert "[red]x[/red]" in shown
    assert printable("a\x1b[2Jb\n") == "a\N{REPLACEMENT CHARACTER}[2Jb\n"


def test_unexpected_failures_are_a_sentence_too(
    cloud: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("camsdk.client.Client.status", explode)
    outcome = camctl("status", "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["reason"] == "internal"
    assert "ZeroDivisionError" in outcome.err
    assert "Traceback" not in outcome.err
    assert "Traceback" in camctl("-v", "status").err


def test_every_command_has_help_and_json(camctl: Camctl) -> None:
    from typer.main import get_command

    def leaves(command: object, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], object]]:
        children = getattr(command, "commands", None)
        if children is None:
            return [(path, command)]
        return [leaf for name, child in children.items() for leaf in leaves(child, (*path, name))]

    found = leaves(get_command(build_app()), ())
    assert len(found) > 25
    for path, command in found:
        names = {name for param in command.params for name in param.opts}  # type: ignore[attr-defined] # click's
        assert "--json" in names, path
        assert command.help, path  # type: ignore[attr-defined] # click's
    assert json.dumps([path for path, _ in found])
