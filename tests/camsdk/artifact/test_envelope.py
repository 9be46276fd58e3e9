import hashlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camsdk.artifact import envelope, keys
from camsdk.artifact.envelope import seal, sealed_size, unseal
from camsdk.errors import ArtifactRefused, DataCorrupted, InvalidInput

DEVICE = "device-7"
KEY = keys.generate_sealing_key()
RECIPIENT = keys.public_bytes(KEY)
HEAD_BYTES = 96
STEP = 64 + 16


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sealed_for_device(data: bytes) -> bytes:
    return seal(data, RECIPIENT, device_id=DEVICE, digest=digest_of(data))


def opens(sealed: bytes, data: bytes) -> bool:
    try:
        return unseal(sealed, KEY, device_id=DEVICE, digest=digest_of(data)) is not None
    except (ArtifactRefused, DataCorrupted):
        return False


@pytest.fixture(autouse=True, scope="module")
def _small_chunks() -> Iterator[None]:
    """Chunks of 64 bytes, so that small envelopes have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "CHUNK_BYTES", 64)
        yield


@given(st.binary(min_size=1, max_size=300))
def test_round_trip(data: bytes) -> None:
    sealed = sealed_for_device(data)
    assert len(sealed) == sealed_size(len(data))
    assert unseal(sealed, KEY, device_id=DEVICE, digest=digest_of(data)) == data


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 128, 129, 640])
def test_round_trip_around_the_edges_of_chunks(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert unseal(sealed_for_device(data), KEY, device_id=DEVICE, digest=digest_of(data)) == data


def test_full_size_chunks_cost_what_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "CHUNK_BYTES", 1 << 20)
    data = random.Random(0).randbytes((2 << 20) + 5)
    sealed = sealed_for_device(data)
    assert len(sealed) - len(data) == HEAD_BYTES + 3 * 16
    assert unseal(sealed, KEY, device_id=DEVICE, digest=digest_of(data)) == data


def test_no_two_envelopes_are_alike_and_none_shows_the_content() -> None:
    data = b"secret weights" * 20
    first, second = sealed_for_device(data), sealed_for_device(data)
    assert first[HEAD_BYTES:] != second[HEAD_BYTES:]
    assert b"secret" not in first


def test_every_changed_byte_is_refused() -> None:
    data = random.Random(1).randbytes(150)
    sealed = sealed_for_device(data)
    for position in range(len(sealed)):
        for change in (1, 0x80, 0xFF):
            mutant = bytearray(sealed)
            mutant[position] ^= change
            assert not opens(bytes(mutant), data), position


def test_every_truncation_and_extension_is_refused() -> None:
    data = random.Random(1).randbytes(150)
    sealed = sealed_for_device(data)
    assert opens(sealed, data)
    for size in range(len(sealed)):
        assert not opens(sealed[:size], data), size
    for extra in (b"\0", bytes(STEP), sealed[-STEP:], sealed):
        assert not opens(sealed + extra, data)


def test_none_of_20000_mutations_is_accepted() -> None:
    data = random.Random(1).randbytes(200)
    sealed = sealed_for_device(data)
    chance = random.Random(4)
    accepted = 0
    for _ in range(20_000):
        mutant = bytearray(sealed)
        for _ in range(chance.choice([1, 1, 2, 5])):
            # Half of them in the chunks: behind the HPKE part a mutation is cheap to refuse.
            position = chance.randrange(chance.choice([0, HEAD_BYTES]), len(mutant))
            mutant[position] = chance.randrange(256)
        accepted += bytes(mutant) != sealed and opens(bytes(mutant), data)
    assert accepted == 0


def test_chunks_cannot_be_moved_repeated_or_dropped() -> None:
    data = bytes(64 * 4)  # equal chunks: only their place tells them apart
    sealed = sealed_for_device(data)
    head, body = sealed[:HEAD_BYTES], sealed[HEAD_BYTES:]
    chunks = [body[start : start + STEP] for start in range(0, len(body), STEP)]
    for order in (
        [1, 0, 2, 3],
        [0, 0, 2, 3],
        [0, 1, 3, 2],
        [3, 1, 2, 0],
        [0, 1, 2],
        [0, 1, 2, 3, 3],
    ):
        assert not opens(head + b"".join(chunks[index] for index in order), data), order
    assert opens(head + b"".join(chunks), data)


def test_a_shorter_artifact_cannot_be_cut_from_a_longer_one() -> None:
    """Even with a header that states the shorter size: header and last chunk are both bound."""
    data = bytes(128)
    sealed = sealed_for_device(data)
    cut = sealed[:8] + (64).to_bytes(8, "little") + sealed[16 : HEAD_BYTES + STEP]
    assert not opens(cut, data)
    assert not opens(cut, bytes(64))


def test_wrong_device_digest_or_key() -> None:
    data = b"bundle"
    sealed = sealed_for_device(data)
    with pytest.raises(ArtifactRefused, match="not for device-8"):
        unseal(sealed, KEY, device_id="device-8", digest=digest_of(data))
    with pytest.raises(ArtifactRefused):
        unseal(sealed, KEY, device_id=DEVICE, digest=digest_of(b"other"))
    with pytest.raises(ArtifactRefused):
        unseal(sealed, keys.generate_sealing_key(), device_id=DEVICE, digest=digest_of(data))


def test_device_and_digest_cannot_run_into_each_other() -> None:
    data = b"bundle"
    sealed = seal(data, RECIPIENT, device_id="ab", digest=digest_of(data))
    for device_id in ("a", "abc", "ab\0"):
        with pytest.raises(ArtifactRefused):
            unseal(sealed, KEY, device_id=device_id, digest=digest_of(data))


def test_content_that_does_not_have_the_digest_is_refused() -> None:
    sealed = seal(b"another bundle", RECIPIENT, device_id=DEVICE, digest=digest_of(b"bundle"))
    with pytest.raises(ArtifactRefused, match="not the one that was asked for"):
        unseal(sealed, KEY, device_id=DEVICE, digest=digest_of(b"bundle"))


@pytest.mark.parametrize("recipient", [b"", bytes(31), bytes(33), bytes(32)])
def test_recipients_that_are_no_keys(recipient: bytes) -> None:
    with pytest.raises(InvalidInput, match="X25519"):
        seal(b"bundle", recipient, device_id=DEVICE, digest=digest_of(b"bundle"))


@pytest.mark.parametrize(
    ("device_id", "digest"),
    [("", "0" * 64), ("d" * 256, "0" * 64), ("d", ""), ("d", "0" * 63), ("d", "G" * 64)],
)
def test_names_of_wrong_form(device_id: str, digest: str) -> None:
    with pytest.raises(InvalidInput):
        seal(b"bundle", RECIPIENT, device_id=device_id, digest=digest)


def test_nothing_cannot_be_sealed() -> None:
    with pytest.raises(InvalidInput):
        seal(b"", RECIPIENT, device_id=DEVICE, digest=digest_of(b""))


@given(st.binary(max_size=200))
def test_noise_is_no_envelope(noise: bytes) -> None:
    for data in (noise, envelope.MAGIC + noise):
        with pytest.raises((DataCorrupted, ArtifactRefused)):
            unseal(data, KEY, device_id=DEVICE, digest="0" * 64)
