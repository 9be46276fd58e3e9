"""Named ways to a cloud, so that nobody types an address, a token file and a certificate each time.

    # ~/.config/camctl/config.toml
    default = "park"
    [profiles.park]
    server = "grpcs://cloud.example:8443"
    token_file = "~/.config/camctl/park.token"
    ca = "~/.config/camctl/park-ca.pem"       # left out: the system's certificates

Without a profile, the embedded cloud of this user is meant: ``camctl serve`` leaves its
certificate, its administrator's token and, while it runs, its address in its data folder.
The file names the token's file instead of holding the token, so that it can be shown to others.
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from camsdk.client.credentials import Credentials
from camsdk.errors import InvalidInput, NotFound

EMBEDDED = "embedded"
DEFAULT_SERVER = "grpcs://127.0.0.1:8443"
READY_FILE = "ready.json"
"""What ``camctl serve`` prints when it is ready, kept in its data folder."""

_KEYS = frozenset({"server", "token_file", "ca"})


@dataclass(frozen=True)
class Profile:
    """One way to one cloud.

    Attributes:
        name: In the file, or ``embedded``.
        server: ``grpcs://host:port``.
        token_file: Holds the API token.
        ca_file: CA certificate, PEM; None trusts the system's.
    """

    name: str
    server: str
    token_file: Path
    ca_file: Path | None

    def is_absent(self) -> bool:
        """Whether it is the embedded cloud, and that has never run here."""
        return self.name == EMBEDDED and not self.token_file.exists()

    def credentials(self) -> Credentials:
        """Reads the token and the certificate.

        Raises:
            Unauthenticated: A file is missing or unreadable.
        """
        return Credentials.from_files(self.token_file, self.ca_file)


def config_path() -> Path:
    """Where this user's profiles are kept."""
    return Path(platformdirs.user_config_dir("camctl", appauthor=False)) / "config.toml"


def embedded_data_dir() -> Path:
    """Where ``camctl serve`` keeps its data unless told otherwise."""
    return Path(platformdirs.user_data_dir("camplatform", appauthor=False)) / "cloud"


def embedded_profile(data_dir: Path | None = None) -> Profile:
    """The way to an embedded cloud by its data folder; nothing is checked yet."""
    folder = data_dir or embedded_data_dir()
    server = running_server(folder) or DEFAULT_SERVER
    return Profile(EMBEDDED, server, folder / "admin.token", folder / "pki" / "ca.pem")


def running_server(folder: Path) -> str:
    """The address that the cloud of a data folder left while it runs; empty if there is none."""
    try:
        ready = json.loads((folder / READY_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    address = ready.get("api") if isinstance(ready, dict) else None
    return f"grpcs://{address}" if isinstance(address, str) and address else ""


def find_profile(name: str = "", path: Path | None = None) -> Profile:
    """The named profile, else the file's default, else the embedded cloud.

    Raises:
        NotFound: No profile has that name.
        InvalidInput: The file is not valid; the message says where.
    """
    path = path or config_path()
    config = _read(path)
    name = name or config.get("default", "")
    profiles = config.get("profiles", {})
    if not isinstance(name, str) or not isinstance(profiles, dict):
        raise InvalidInput(f"{path}: default is a text and profiles is a table")
    if name in profiles:
        return _profile(name, profiles[name], path)
    if name in ("", EMBEDDED):
        return embedded_profile()
    known = ", ".join(sorted([*profiles, EMBEDDED]))
    raise NotFound(f"no profile is called {name!r} in {path}", f"there are: {known}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}", "mend or remove it") from error


def _profile(name: str, values: object, path: Path) -> Profile:
    where = f"profile {name!r} in {path}"
    if not isinstance(values, dict) or not all(isinstance(text, str) for text in values.values()):
        raise InvalidInput(f"{where} is not a table of texts")
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise InvalidInput(f"{where} has an unknown key {unknown[0]!r}", f"keys: {sorted(_KEYS)}")
    if "server" not in values or "token_file" not in values:
        raise InvalidInput(f"{where} needs server and token_file")
    folder = path.parent  # relative names are relative to the file that has them
    ca = values.get("ca", "")
    return Profile(
        name,
        values["server"],
        folder / Path(values["token_file"]).expanduser(),
        folder / Path(ca).expanduser() if ca else None,
    )
