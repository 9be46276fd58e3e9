"""The data folder of an embedded cloud: who owns it, and the credentials made at its first start.

    DATA/lock                     held while a cloud runs on the folder
    DATA/store.db bus.db          one connection each, hence the lock
    DATA/blobs/ vectors/          pictures, artifacts, the index
    DATA/pki/                     ca.key ca.pem server.key server.pem
    DATA/keys/                    signing.key signing.pub, Ed25519
    DATA/admin.token              plaintext of the administrator's API token
    DATA/ready.json               while it serves: addresses, as printed

Private files have mode 0600, the folder 0700. The signing key lies here for the embedded profile
only, where one person is the builder, the operator and the user of the models; see docs/adr.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from camcloud.fleet import tokens
from camcloud.fleet.files import write_file
from camcloud.store.database import Database
from camsdk.artifact import keys
from camsdk.errors import Conflict, Unauthenticated, Unavailable

ADMIN_NAME = "admin"
_LOG = logging.getLogger(__name__)


class Workspace:
    """Paths of a data folder, made if missing.

    Raises:
        Unavailable: The folder cannot be made or entered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.store_path = self.folder / "store.db"
        self.bus_path = self.folder / "bus.db"
        self.blobs_dir = self.folder / "blobs"
        self.vectors_dir = self.folder / "vectors"
        self.pki_dir = self.folder / "pki"
        self.keys_dir = self.folder / "keys"
        self.admin_token_path = self.folder / "admin.token"
        self.ready_path = self.folder / "ready.json"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for child in (self.pki_dir, self.keys_dir, self.vectors_dir):
                child.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"The data folder {self.folder} cannot be used: {error.strerror}.",
                "choose another with --data",
            ) from error

    @property
    def signing_hint(self) -> str:
        """How to sign with the key that this cloud and its devices trust."""
        key_path = self.keys_dir / "signing.key"
        return f"camctl model sign FILE --data {self.folder} signs with its key, {key_path}"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Holds the folder; the kernel lets go of it when the process dies.

        Raises:
            Conflict: Another process holds it.
        """
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    f"Another cloud runs on {self.folder}.", "stop it, or choose another --data"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def trust_keys(self) -> tuple[bytes, ...]:
        """Public keys that artifacts may be signed with; a signing key is made if there is none.

        Raises:
            CamError: A key file is damaged, or others can read the private one.
        """
        private_path, public_path = self.keys_dir / "signing.key", self.keys_dir / "signing.pub"
        if not private_path.exists():
            keys.save_private_key(keys.generate_signing_key(), private_path)
            _LOG.info("signing key made: %s", private_path)
        if not public_path.exists():
            public_key = keys.public_bytes(keys.load_signing_key(private_path))
            keys.save_public_key(public_key, public_path)
        return keys.load_trust_keys([public_path])

    def ensure_admin_token(self, database: Database, now_s: float) -> None:
        """Makes the administrator's token unless the file holds one that the store knows."""

        def renew(connection: Connection) -> str | None:
            with contextlib.suppress(Unauthenticated, OSError):
                text = self.admin_token_path.read_text("ascii", "replace").strip()
                tokens.identify(connection, text, now_s)
                return None
            tokens.delete_api(connection, ADMIN_NAME)
            token, _ = tokens.create_api(
                connection, ADMIN_NAME, now_s, is_read_only=False, lifetime_s=None
            )
            return token

        token = database.run(renew)
        if token is not None:
            write_file(self.admin_token_path, f"{token}\n".encode(), is_private=True)
            _LOG.info("administrator's token made: %s", self.admin_token_path)
