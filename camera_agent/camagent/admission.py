"""Which artifacts may run here: rules in order, no I/O.

1. The envelope opens with this device's key, under its name and the digest that was ordered.
2. A trusted key signed the bundle, and every member is what the signed manifest says.
3. It was made for this hardware.
4. It finds boxes: lines and zones count what a detector sees, and nothing else runs here.
5. It is not older than what has been good here, unless the order says that a rollback is meant.

Each rule costs the artifact; none costs the one that runs.
"""

from collections.abc import Mapping

from camagent.identity import Identity
from camsdk.artifact.bundle import Bundle, open_bundle
from camsdk.artifact.envelope import unseal
from camsdk.errors import ArtifactRefused


def admit(
    sealed: bytes,
    digest: str,
    identity: Identity,
    floors: Mapping[str, int],
    *,
    is_rollback: bool,
) -> Bundle:
    """Opens a sealed artifact and applies the rules.

    Args:
        sealed: As it was fetched.
        digest: SHA-256 of the bundle that was ordered, hex.
        identity: This device: its key, its hardware, whom it trusts.
        floors: Least version by model name.
        is_rollback: Whether an older version is meant.

    Raises:
        ArtifactRefused: a rule does not hold; the message says which.
        DataCorrupted: the bytes are no artifact at all.
    """
    data = unseal(sealed, identity.unsealing_key, device_id=identity.device_id, digest=digest)
    bundle = open_bundle(data, identity.trust_keys, hardware=identity.hardware)
    manifest = bundle.manifest
    if manifest.kind != "detector":
        raise ArtifactRefused(
            f"{manifest.reference} is a {manifest.kind}, and a camera runs detectors alone",
            "order a model whose outputs become boxes",
        )
    floor = floors.get(manifest.name, 0)
    if manifest.version < floor and not is_rollback:
        raise ArtifactRefused(
            f"{manifest.reference} is older than {manifest.name}:{floor}, which has run here",
            "order it as a rollback if that is meant",
        )
    return bundle
