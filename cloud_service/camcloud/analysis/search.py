"""``AppearanceSearch``: which tracks look like this picture, event or code?

Candidates come from the vector index by inner product; each track counts once, by its best code;
similarities are exact cosines of the stored codes. The method is the cameras' own: an honest
baseline (HSV stripes) that compares colours, not identities.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camcloud.analysis.images import decode_image
from camcloud.store import embeddings, events
from camcloud.store.database import Database
from camcloud.store.embeddings import CodeRecord
from camcloud.store.tracks import Scene, StoredTrack
from camcloud.vectors import CODE_SIZE, Vectors
from camsdk.errors import InvalidInput, NotFound
from camsdk.vision import appearance

I8 = NDArray[np.int8]
I64 = NDArray[np.int64]

METHOD: Final = f"{appearance.METHOD} (baseline)"
MAX_TOP_K: Final = 200

_CODES_OF_EVENT: Final = 8
"""Codes of an event's track that are searched with: the newest, 40 s or so."""

_CODES_PER_TRACK: Final = 8  # a first guess; the search widens until it has enough tracks
_WIDEN: Final = 4


@dataclass(frozen=True)
class Hit:
    """A track that looks alike.

    Attributes:
        track: The track.
        matched_timestamp_s: Capture time of its best code, seconds since the Unix epoch.
        similarity: Cosine of the codes, -1 to 1.
    """

    track: StoredTrack
    matched_timestamp_s: float
    similarity: float


class AppearanceSearch:
    """See the module.

    Args:
        database: Holds the codes and their tracks.
        vectors: Index of the codes.
    """

    def __init__(self, database: Database, vectors: Vectors) -> None:
        self._database = database
        self._vectors = vectors

    async def codes_of_image(self, image: bytes) -> I8:
        """The code of a picture of one object, int8 (1, 128).

        Raises:
            InvalidInput: No JPEG or PNG, damaged, or too small or large.
        """
        return await asyncio.to_thread(_code_of_image, image)

    async def codes_of_event(self, event_id: str) -> I8:
        """The newest codes of an event's track, int8 (n, 128), n >= 1.

        Raises:
            InvalidInput: No event id, or the event is not about a track.
            NotFound: No such event, or its track has no code yet.
        """
        stored = await self._database.arun(lambda connection: events.get(connection, event_id))
        shipped = stored.shipped
        track_id = shipped.event.track_id
        if track_id < 0:
            raise InvalidInput(
                f"event {event_id} ({shipped.event.kind}) is not about a track",
                "choose one that is, such as line_crossed",
            )
        scene = Scene(stored.device_id, shipped.epoch, shipped.camera_id, shipped.session)
        _, codes = await self._database.arun(
            lambda connection: embeddings.of_track(connection, scene, track_id, _CODES_OF_EVENT)
        )
        if not len(codes):
            raise NotFound(
                f"the track of event {event_id} has no appearance code",
                "it was too small or too short to be coded; choose another",
            )
        return codes

    def codes_of_bytes(self, code: bytes) -> I8:
        """A code as given, int8 (1, 128).

        Raises:
            InvalidInput: Not 128 bytes, or not a unit vector times 127.
        """
        codes = np.frombuffer(code, np.int8).reshape(1, -1)
        if codes.shape[1] != CODE_SIZE or not embeddings.is_unit(codes)[0]:
            raise InvalidInput(
                f"{len(code)} bytes are no appearance code",
                f"a code is {CODE_SIZE} signed bytes, a unit vector times 127",
            )
        return codes

    async def find(
        self,
        codes: I8,
        top_k: int,
        *,
        fleet: str = "",
        since_s: float = 0.0,
        until_s: float = 0.0,
    ) -> list[Hit]:
        """Tracks that look most like any of ``codes``, best first.

        Args:
            codes: int8 (q, 128).
            top_k: At most that many tracks, 1 to ``MAX_TOP_K``.
            fleet: Only of that fleet; "" means any.
            since_s, until_s: Only codes captured between, seconds since the Unix epoch; 0 is open.

        Raises:
            InvalidInput: ``top_k`` is out of range.
        """
        if not 1 <= top_k <= MAX_TOP_K:
            raise InvalidInput(f"top_k is {top_k}", f"give 1 to {MAX_TOP_K}")
        allowed = await self._database.arun(
            lambda connection: embeddings.ids_within(connection, fleet, since_s, until_s)
        )
        limit = top_k * _CODES_PER_TRACK
        while True:
            ids, _ = await asyncio.to_thread(self._vectors.search, codes, limit, allowed)
            records = await self._records(np.unique(ids).tolist())
            if ids.shape[1] < limit or _has_enough(ids, records, top_k):
                return _best_per_track(codes, records)[:top_k]
            limit *= _WIDEN

    async def _records(self, ids: Sequence[int]) -> Mapping[int, CodeRecord]:
        return await self._database.arun(lambda connection: embeddings.records(connection, ids))


def _code_of_image(image: bytes) -> I8:
    return appearance.hsv_stripes(decode_image(image))[np.newaxis]


def _has_enough(ids: I64, records: Mapping[int, CodeRecord], top_k: int) -> bool:
    """Whether each query has met ``top_k`` tracks: then no track beyond its list can be better."""
    return all(
        len({records[i].track.key for i in row if i in records}) >= top_k for row in ids.tolist()
    )


def _best_per_track(codes: I8, records: Mapping[int, CodeRecord]) -> list[Hit]:
    if not records:
        return []
    found = list(records.values())
    stored = np.stack([record.code for record in found])
    similarities = np.max([appearance.similarity(stored, code) for code in codes], axis=0)
    hits: dict[int, Hit] = {}
    # Ties go to the newer code, so that the order does not depend on the index.
    order = np.lexsort(([-record.embedding_id for record in found], -similarities))
    for place in order.tolist():
        record = found[place]
        similarity = float(np.clip(similarities[place], -1, 1))
        # The code at a track's end is sent when the end is certain, a second after the last look.
        taken_s = min(record.timestamp_s, record.track.sighting.last_timestamp_s)
        hits.setdefault(record.track.key, Hit(record.track, taken_s, similarity))
    return list(hits.values())
