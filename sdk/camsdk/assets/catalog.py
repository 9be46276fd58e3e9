"""What can be pulled: the pins of ``manifest.yaml`` as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Literal

import yaml

from camsdk.assets.folders import default_folder
from camsdk.errors import NotFound

Client = Literal["apt", "npm", "pip"]

MANIFEST: Final = "manifest.yaml"


@dataclass(frozen=True)
class Package:
    """An archive in a package registry.

    Attributes:
        name: In our manifest.
        client: The command that fetches it.
        package, version: What the client is asked for.
        archive: File name that the client writes.
        size_bytes, sha256: Of the archive.
    """

    name: str
    client: Client
    package: str
    version: str
    archive: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Asset:
    """One file inside a package.

    Attributes:
        name: By which it is pulled.
        description: For people.
        package: Where it is from.
        member: Its path inside the archive.
        size_bytes, sha256: Of the file.
        licence: Of the file, as far as it is known.
        redistributable: Whether it may be passed on.
    """

    name: str
    description: str
    package: Package
    member: str
    size_bytes: int
    sha256: str
    licence: str
    redistributable: bool

    @property
    def path(self) -> Path:
        """Where it is once it is pulled."""
        return default_folder() / self.name

    @property
    def is_present(self) -> bool:
        """Whether it was pulled; ``verify`` also checks its content."""
        return self.path.is_file() and self.path.stat().st_size == self.size_bytes


@cache
def catalog() -> dict[str, Asset]:
    """All assets by name, in the manifest's order."""
    text = resources.files(__package__).joinpath(MANIFEST).read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    packages = {name: Package(name=name, **row) for name, row in document["packages"].items()}
    return {
        name: Asset(name=name, package=packages[row.pop("from")], **row)
        for name, row in document["assets"].items()
    }


def find(name: str, known: Mapping[str, Asset] | None = None) -> Asset:
    """The asset of that name, of ``known`` or of the manifest.

    Raises:
        NotFound: There is none; the hint lists those that there are.
    """
    known = catalog() if known is None else known
    if name not in known:
        raise NotFound(f"there is no asset {name!r}", f"there are {', '.join(known)}")
    return known[name]
