"""Reads ``agent.yaml`` into settings.

Every mistake in the file is one ``InvalidInput`` that names the field or the line. YAML aliases are
refused: nothing here needs them, and a few lines of them expand to gigabytes.
"""

import difflib
import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import yaml

from camagent.config import (
    AgentConfig,
    CameraSettings,
    OutboxSettings,
    RuntimeSettings,
    UpdateSettings,
)
from camagent.source.address import redact
from camsdk.errors import InvalidInput

_log = logging.getLogger(__name__)

_MAX_CONFIG_BYTES: Final = 1 << 20  # an agent.yaml is a page; more is a mistake or an attack

# What a plain field accepts, and the word for it; composed fields have their own builders.
_PLAIN: Final[dict[Any, tuple[Any, str]]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    float | None: ((int, float), "a number"),
    str: (str, "text"),
}

T = TypeVar("T")


def load_config(path: Path) -> AgentConfig:
    """Reads ``agent.yaml``; relative paths in it count from its folder.

    A camera's password in a file that everybody may read is worth a warning, no more: whoever
    mounts the file may have no say in its mode.

    Raises:
        InvalidInput: the file cannot be read or says something that is not understood.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
            is_public = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
    except OSError as error:
        raise InvalidInput(
            f"the configuration {path} cannot be read: {error.strerror}",
            "name the file with --config",
        ) from error
    if len(text) > _MAX_CONFIG_BYTES:
        raise InvalidInput(f"the configuration {path} is larger than 1 MiB", "shorten it")
    config = parse_config(text, path.resolve().parent)
    if is_public and any(_has_credentials(camera.source) for camera in config.cameras):
        _log.warning("others may read a camera's credentials in %s: chmod 600 it", path)
    return config


def _has_credentials(source: str) -> bool:
    return "://" in source and redact(source) != source


def parse_config(text: str | bytes, base_dir: Path) -> AgentConfig:
    """Parses the text of an ``agent.yaml``; ``base_dir`` anchors its relative paths.

    Raises:
        InvalidInput: naming the field or the line.
    """
    raw = _mapping("agent.yaml", _load_yaml(text))
    cameras = raw.pop("cameras", None)
    if not isinstance(cameras, list):
        raise InvalidInput("cameras is missing or not a list", "list cameras with id and source")
    values: dict[str, Any] = dict(raw)
    values["cameras"] = tuple(_camera(item, base_dir) for item in cameras)
    values["runtime"] = _build(RuntimeSettings, "runtime", raw.get("runtime", {}))
    values["update"] = _build(UpdateSettings, "update", raw.get("update", {}))
    values["outbox"] = _build(OutboxSettings, "outbox", raw.get("outbox", {}))
    for name in ("data_dir", "rules", "status_file"):
        if values.get(name) is not None:
            if not isinstance(values[name], str):
                raise InvalidInput(f"{name} is not a path", "write it as text")
            values[name] = base_dir / Path(values[name]).expanduser()
    return _build(AgentConfig, "agent.yaml", values)


def _camera(item: object, base_dir: Path) -> CameraSettings:
    values = _mapping("a camera", item)
    source = values.get("source")
    if isinstance(source, str) and "://" not in source:
        values["source"] = str(base_dir / Path(source).expanduser())
    if isinstance(values.get("tls_ca_file"), str) and values["tls_ca_file"]:
        values["tls_ca_file"] = str(base_dir / Path(values["tls_ca_file"]).expanduser())
    return _build(CameraSettings, f"camera {values.get('id', '?')}", values, {"camera_id": "id"})


def _load_yaml(text: str | bytes) -> object:
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise InvalidInput(f"line {_line(event)} uses a YAML alias", "write the value out")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        failure = _yaml_mistake(error)
    except ValueError as error:  # a date, say, that is none
        failure = InvalidInput(
            f"agent.yaml holds a value that is none: {error}", "put it in quotes"
        )
    # Raised out here: the original quotes the line, which may hold a camera's password.
    raise failure


def _yaml_mistake(error: yaml.YAMLError) -> InvalidInput:
    """What is wrong and where, in one line that quotes nothing of the file."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark is not None else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable"
    return InvalidInput(f"agent.yaml is not YAML: {where}{problem}", "mind the indentation")


def _mapping(what: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(f"{what} is not a mapping of names to values", "see the documentation")
    return dict(value)


def _build(
    cls: Callable[..., T], where: str, raw: object, written: Mapping[str, str] | None = None
) -> T:
    """Makes a settings object, refusing unknown names and values of another type.

    ``written`` says which fields have another name in the file.
    """
    values = _mapping(where, raw)
    written = written or {}
    known = {written.get(item.name, item.name): item for item in fields(cast("Any", cls))}
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise _unknown_setting(where, name, sorted(known))
        checked[known[name].name] = _scalar(where, name, value, known[name].type)
    for name, item in known.items():
        if name not in values and item.default is MISSING:
            raise InvalidInput(f"{where}: {name} is missing", "add it")
    return cls(**checked)


def _unknown_setting(where: str, name: str, known: list[str]) -> InvalidInput:
    nearest = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {nearest[0]}? " if nearest else ""
    return InvalidInput(
        f"{where}: {name!r} is not a setting", f"{guess}known are {', '.join(known)}"
    )


def _scalar(where: str, name: str, value: object, wanted: Any) -> object:
    """Checks a value against the plain types; composed ones are checked by their own builder."""
    if wanted not in _PLAIN or (value is None and wanted == float | None):
        return value
    accepted, word = _PLAIN[wanted]
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        shown = "something else" if name == "source" else repr(value)  # may hold a password
        raise InvalidInput(f"{where}: {name} is {shown}", f"give {word}")
    return float(value) if isinstance(value, int) and accepted == (int, float) else value


def _line(event: yaml.Event) -> str:
    return str(event.start_mark.line + 1) if event.start_mark is not None else "?"
