"""An agent takes a packed artifact through the same gates as any other, and runs it."""

import numpy as np
import pytest

from camagent.canary import run_canary
from camagent.runtimes.cpu import CpuRuntime
from camsdk.artifact import bundle, keys
from camsdk.artifact.bundle import list_members
from camsdk.artifact.hardware import local_hardware
from camsdk.compress.packaging import Draft, make_draft
from camsdk.errors import ArtifactRefused, RuntimeFailure
from support.tiny_detector import DESCRIPTION, tiny_detector

pytestmark = pytest.mark.slow
KEY = keys.generate_signing_key()


def opened(draft: Draft) -> bundle.Bundle:
    data = bundle.pack(draft.manifest, draft.members, KEY)
    return bundle.open_bundle(data, [keys.public_bytes(KEY)], hardware=local_hardware())


def damaged(draft: Draft) -> Draft:
    """With one bit of the packed model flipped, and listed and signed as if it were meant."""
    members = dict(draft.members)
    content = bytearray(members["model.camq"])
    content[len(content) // 2] ^= 4
    members["model.camq"] = bytes(content)
    manifest = draft.manifest.model_copy(update={"members": list_members(members)})
    return Draft(manifest, members)


def test_it_is_admitted_passes_its_canary_and_runs() -> None:
    draft = make_draft(tiny_detector(), DESCRIPTION, is_packed=True)
    artifact = opened(draft)
    plain = make_draft(tiny_detector(), DESCRIPTION)
    assert len(artifact.model) < len(plain.model)
    tensor = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    with CpuRuntime.start(artifact.model) as small, CpuRuntime.start(plain.model) as large:
        run_canary(artifact, small, deadline_s=5)
        outputs, expected = small.infer(tensor), large.infer(tensor)
    for name, value in expected.items():
        np.testing.assert_array_equal(outputs[name], value)


def test_a_damaged_one_is_refused_even_when_its_signature_fits() -> None:
    artifact = opened(damaged(make_draft(tiny_detector(), DESCRIPTION, is_packed=True)))
    with pytest.raises(RuntimeFailure, match="packed"):
        CpuRuntime.start(artifact.model)


def test_a_changed_bundle_is_refused_by_its_signature() -> None:
    draft = make_draft(tiny_detector(), DESCRIPTION, is_packed=True)
    data = bytearray(bundle.pack(draft.manifest, draft.members, KEY))
    data[-200] ^= 1
    with pytest.raises(ArtifactRefused):
        bundle.open_bundle(bytes(data), [keys.public_bytes(KEY)], hardware=local_hardware())
