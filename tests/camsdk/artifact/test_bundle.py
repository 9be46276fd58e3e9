import hashlib
import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camsdk.artifact import bundle, keys, signature
from camsdk.artifact.bundle import open_bundle, pack, read_unverified, sign
from camsdk.errors import ArtifactRefused, CamError, DataCorrupted, InvalidInput
from support.artifacts import MEMBERS, make_bundle, make_manifest

KEY = keys.generate_signing_key()
TRUST = [keys.public_bytes(KEY)]
ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's base point, RFC 8032

contents = st.binary(min_size=1, max_size=300)
member_sets = st.builds(
    lambda canary, model, more: {"canary.npz": canary, "model.onnx": model} | more,
    contents,
    contents,
    st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}\.npz", fullmatch=True), contents, max_size=3
    ),
)


def signed(body: bytes) -> bytes:
    """Any body at all, correctly signed: what a careless but trusted tool could make."""
    return body + signature.sign(hashlib.sha256(body).digest(), KEY)


def body_of(manifest: bytes, content: bytes = b"".join(MEMBERS.values())) -> bytes:
    return struct.pack("<8sI", bundle.MAGIC, len(manifest)) + manifest + content


@given(member_sets)
def test_round_trip(members: Mapping[str, bytes]) -> None:
    manifest = make_manifest(members)
    data = pack(manifest, members, KEY)
    opened = open_bundle(data, TRUST, hardware="cpu-x86_64")
    assert opened.manifest == manifest
    assert dict(opened.members) == members
    assert opened.model == members["model.onnx"]
    assert opened.digest == hashlib.sha256(data).hexdigest()
    assert opened.signer == TRUST[0]
    assert pack(manifest, members, KEY) == data


def test_every_changed_byte_is_refused() -> None:
    data = make_bundle(KEY)
    for position in range(len(data)):
        for change in (1, 0x80, 0xFF):
            mutant = bytearray(data)
            mutant[position] ^= change
            with pytest.raises((ArtifactRefused, DataCorrupted)):
                open_bundle(bytes(mutant), TRUST)


def test_every_truncation_and_extension_is_refused() -> None:
    data = make_bundle(KEY)
    for size in range(len(data)):
        with pytest.raises((ArtifactRefused, DataCorrupted)):
            open_bundle(data[:size], TRUST)
        with pytest.raises((ArtifactRefused, DataCorrupted)):
            open_bundle(data[size:] if size else data + b"\0", TRUST)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Flip, replace, cut, repeat or move bytes; never the same data."""
    mutant = bytearray(data)
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice([1, 1, 1, 2, 4, 16, 64]))
    kind = chance.randrange(4)
    if kind == 0:
        mutant[start:end] = chance.randbytes(end - start)
    elif kind == 1:
        del mutant[start:end]
    elif kind == 2:
        mutant[start:start] = mutant[start:end]
    else:
        mutant[start] ^= 1 << chance.randrange(8)
    if mutant == data:
        mutant[start] ^= 1
    return bytes(mutant)


def test_none_of_20000_mutations_is_accepted() -> None:
    data = make_bundle(KEY)
    chance = random.Random(2)
    accepted = 0
    for _ in range(20_000):
        try:
            open_bundle(mutate(data, chance), TRUST)
            accepted += 1
        except (ArtifactRefused, DataCorrupted):
            pass
    assert accepted == 0


def test_a_mutated_body_with_a_valid_signature_never_crashes_the_parser() -> None:
    body = make_bundle(KEY)[: -signature.BLOCK_BYTES]
    chance = random.Random(3)
    refused = 0
    for _ in range(2_000):
        try:
            opened = open_bundle(signed(mutate(body, chance)), TRUST)
        except DataCorrupted:
            refused += 1
        else:  # the change hit a value of the manifest that may be any: still self-consistent
            assert dict(opened.members) == MEMBERS
    assert refused > 1_500


def test_unknown_signer() -> None:
    other = keys.generate_signing_key()
    with pytest.raises(ArtifactRefused, match=keys.key_id(TRUST[0])):
        open_bundle(make_bundle(KEY), [keys.public_bytes(other)])
    with pytest.raises(ArtifactRefused, match="not trusted"):
        open_bundle(make_bundle(KEY), [])


def test_signed_again_by_an_untrusted_key() -> None:
    again = sign(make_bundle(KEY), keys.generate_signing_key())
    with pytest.raises(ArtifactRefused, match="not trusted"):
        open_bundle(again, TRUST)
    assert open_bundle(sign(again, KEY), TRUST).manifest == make_manifest()


def test_a_signature_under_a_trusted_name_by_another_key() -> None:
    forged = sign(make_bundle(KEY), keys.generate_signing_key())
    cut = len(forged) - signature.BLOCK_BYTES
    forged = forged[:cut] + TRUST[0] + forged[cut + 32 :]
    with pytest.raises(ArtifactRefused, match="does not fit"):
        open_bundle(forged, TRUST)


def test_a_signature_of_another_context_is_refused() -> None:
    body = make_bundle(KEY)[: -signature.BLOCK_BYTES]
    bare = TRUST[0] + KEY.sign(hashlib.sha256(body).digest())
    with pytest.raises(ArtifactRefused, match="does not fit"):
        open_bundle(body + bare, TRUST)


def test_the_signature_is_not_malleable() -> None:
    data = make_bundle(KEY)
    scalar = int.from_bytes(data[-32:], "little") + ORDER
    with pytest.raises(ArtifactRefused, match="does not fit"):
        open_bundle(data[:-32] + scalar.to_bytes(32, "little"), TRUST)


def test_a_draft_is_refused_even_if_its_zero_key_were_trusted() -> None:
    draft = make_bundle(None)
    with pytest.raises(ArtifactRefused, match="not signed"):
        open_bundle(draft, [*TRUST, bytes(32)])
    assert read_unverified(draft).signer == b""
    assert open_bundle(sign(draft, KEY), TRUST).signer == TRUST[0]


def test_wrong_hardware() -> None:
    data = make_bundle(KEY, hardware=("cpu-aarch64",))
    with pytest.raises(ArtifactRefused, match="made for cpu-aarch64, not cpu-x86_64"):
        open_bundle(data, TRUST, hardware="cpu-x86_64")
    assert open_bundle(data, TRUST).manifest.hardware == ("cpu-aarch64",)


def respell(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda manifest: manifest.replace(old, new)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (respell(b'"model.onnx"', b'"../../model"'), r"members\.1\.path"),
        (respell(b'"model.onnx"', b'"/etc/model"'), r"members\.1\.path"),
        (respell(b'"model.onnx"', b'"canary.npz"'), "sorted by path, each once"),
        (respell(b'"size_bytes":200', b'"size_bytes":201'), "not"),
        (respell(b'"size_bytes":200', b'"size_bytes":0'), "size_bytes"),
        (respell(b'"size_bytes":200', b'"size_bytes":-200'), "size_bytes"),
        (respell(b'"kind":"detector"', b'"kind":"rootkit"'), "kind"),
        (respell(b'"format_version":1', b'"format_version":2'), "format_version"),
        (respell(b'"kind":"detector"', b'"kind":"detector","more":1'), "no such field"),
    ],
)
def test_signed_but_wrong_manifests(change: Callable[[bytes], bytes], problem: str) -> None:
    manifest = make_manifest().to_bytes()
    changed = change(manifest)
    assert changed != manifest
    with pytest.raises(DataCorrupted, match=problem):
        open_bundle(signed(body_of(changed)), TRUST)
    with pytest.raises(DataCorrupted, match=problem):
        read_unverified(body_of(changed) + signature.DRAFT)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_manifest_size_that_does_not_fit(size: int) -> None:
    body = (
        struct.pack("<8sI", bundle.MAGIC, size)
        + make_manifest().to_bytes()
        + b"".join(MEMBERS.values())
    )
    with pytest.raises(DataCorrupted):
        open_bundle(signed(body), TRUST)


@pytest.mark.parametrize("extra", [b"\0", b"more bytes"])
def test_signed_trailing_bytes(extra: bytes) -> None:
    manifest = make_manifest().to_bytes()
    with pytest.raises(DataCorrupted, match="before its signature"):
        open_bundle(signed(body_of(manifest) + extra), TRUST)


def test_signed_members_that_are_not_the_listed_ones() -> None:
    content = b"".join(MEMBERS.values())
    swapped = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(DataCorrupted, match="sha256"):
        open_bundle(signed(body_of(make_manifest().to_bytes(), swapped)), TRUST)


@pytest.mark.parametrize("data", [b"", b"CAMBNDL1", b"PK\x03\x04" + bytes(500), bytes(1000)])
def test_other_files_are_no_bundles(data: bytes) -> None:
    with pytest.raises(DataCorrupted, match="not a model bundle"):
        read_unverified(data)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"model.onnx": MEMBERS["model.onnx"]},
        MEMBERS | {"more.npz": b"x"},
        MEMBERS | {"model.onnx": MEMBERS["model.onnx"][:-1]},
        MEMBERS | {"model.onnx": MEMBERS["model.onnx"][:-1] + b"!"},
    ],
)
def test_pack_refuses_members_that_the_manifest_does_not_list(members: dict[str, bytes]) -> None:
    with pytest.raises(InvalidInput):
        pack(make_manifest(), members, KEY)


@pytest.mark.parametrize("path", ["model.pkl", "../x.npz", "noise", "empty.npz"])
def test_list_members_refuses_what_cannot_be_one(path: str) -> None:
    with pytest.raises(InvalidInput):
        bundle.list_members({path: b""})


def test_sign_keeps_everything_but_the_signature() -> None:
    data = make_bundle(KEY)
    again = sign(data, keys.generate_signing_key())
    cut = -signature.BLOCK_BYTES
    assert again[:cut] == data[:cut]
    assert again[cut:] != data[cut:]
    with pytest.raises(CamError):
        sign(data[:-1], KEY)


def test_read_unverified_tells_the_same_as_open(tmp_path: Any) -> None:
    data = make_bundle(KEY)
    seen, opened = read_unverified(data), open_bundle(data, TRUST)
    assert (seen.manifest, dict(seen.members), seen.digest, seen.signer) == (
        opened.manifest,
        dict(opened.members),
        opened.digest,
        opened.signer,
    )
    assert not isinstance(seen, bundle.Bundle)
