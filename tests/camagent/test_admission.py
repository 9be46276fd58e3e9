"""A camera runs what finds boxes."""

import hashlib

import pytest

from camagent.admission import admit
from camagent.identity import Identity
from camsdk.artifact import envelope
from camsdk.artifact.keys import public_bytes
from camsdk.artifact.manifest import OutputSpec
from camsdk.errors import ArtifactRefused
from support.block_artifacts import make_artifact
from support.fake_cloud import FakeCloud


def admitted(cloud: FakeCloud, identity: Identity, **changes: object) -> str:
    """The kind of what a device took in."""
    data = make_artifact(cloud.signing_key, 1, **changes)
    digest, key = hashlib.sha256(data).hexdigest(), public_bytes(identity.unsealing_key)
    sealed = envelope.seal(data, key, device_id=identity.device_id, digest=digest)
    return admit(sealed, digest, identity, {}, is_rollback=False).manifest.kind


@pytest.mark.parametrize(
    ("kind", "decoder"), [("classifier", "class-scores"), ("segmenter", "class-map")]
)
def test_what_finds_no_boxes_is_refused(
    kind: str, decoder: str, cloud: FakeCloud, identity: Identity
) -> None:
    assert admitted(cloud, identity) == "detector"
    output = OutputSpec(decoder=decoder, tensors=("scores",))
    with pytest.raises(ArtifactRefused, match=f"a {kind}, and a camera runs detectors alone"):
        admitted(cloud, identity, kind=kind, output=output)
