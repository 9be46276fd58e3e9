"""``DataApi``: the methods of ``CloudApi`` that read what cameras saw.

Errors are raised as :class:`~camsdk.errors.CamError` and mapped by the server's interceptor.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from sqlalchemy import Connection
from typing_extensions import override

from camcloud.analysis.search import METHOD, Hit
from camcloud.api.errors import Context
from camcloud.data_plane import DataPlane
from camcloud.fleet import devices
from camcloud.store import crops, events, ingest, tracks
from camcloud.store.events import EventQuery, StoredEvent
from camcloud.store.tracks import StoredTrack, TrackQuery
from camproto.v1 import api_pb2
from camproto.v1.api_pb2_grpc import CloudApiServicer
from camsdk.errors import InvalidInput
from camsdk.wire import event_to_message

DEFAULT_PAGE = 100
DEFAULT_TOP_K = 10
MAX_KINDS = 100
"""In a filter: each is a variable of the query, and databases bound those."""

_MAX_COUNT = 2**63 - 1


class DataApi(CloudApiServicer):
    """Inherited by the servicer that has the other methods.

    Args:
        data_plane: Started by its owner.
    """

    def __init__(self, data_plane: DataPlane) -> None:
        self._data = data_plane

    @override
    async def ListEvents(
        self, request: api_pb2.ListEventsRequest, context: Context
    ) -> api_pb2.ListEventsResponse:
        """One page of stored events; NotFound for a fleet that there is not."""
        query = _event_query(request.filter)
        limit = _page_size(request.limit, events.MAX_PAGE)
        cursor = _cursor(request.after_cursor)

        def work(connection: Connection) -> list[StoredEvent]:
            _check_fleet(connection, query.fleet)
            newest_first = request.newest_first
            return events.page(
                connection, query, cursor=cursor, limit=limit, newest_first=newest_first
            )

        found = await self._data.database.arun(work)
        return api_pb2.ListEventsResponse(
            events=[_event_record(stored) for stored in found],
            next_cursor=found[-1].cursor if len(found) == limit else 0,
        )

    @override
    async def TailEvents(
        self, request: api_pb2.TailEventsRequest, context: Context
    ) -> AsyncIterator[api_pb2.EventRecord]:
        """Stored events after a cursor, then new ones as they come.

        Raises:
            NotFound: There is no such fleet: nothing would ever come.
        """
        query = _event_query(request.filter)
        await self._data.database.arun(lambda c: _check_fleet(c, query.fleet))
        # The headers go out at once: the caller knows that it follows before anything happens.
        await context.send_initial_metadata(())
        following = self._data.feed.follow(
            query,
            _cursor(request.after_cursor),
            from_now=request.from_now,
        )
        async with aclosing(following):
            async for stored in following:
                yield _event_record(stored)

    @override
    async def GetEvent(
        self, request: api_pb2.GetEventRequest, context: Context
    ) -> api_pb2.EventRecord:
        """The event with an id."""
        stored = await self._data.database.arun(
            lambda connection: events.get(connection, request.event_id)
        )
        return _event_record(stored)

    @override
    async def GetEventCrop(
        self, request: api_pb2.GetEventCropRequest, context: Context
    ) -> api_pb2.EventCrop:
        """The still that an event's rule asked for."""
        crop = await self._data.database.arun(
            lambda connection: crops.of_event(connection, events.get(connection, request.event_id))
        )
        return api_pb2.EventCrop(
            event_id=request.event_id,
            jpeg=await asyncio.to_thread(self._data.blobs.get, crop.blob_key),
            frame_index=crop.frame_index,
            timestamp_s=crop.timestamp_s,
        )

    @override
    async def SearchAppearance(
        self, request: api_pb2.SearchAppearanceRequest, context: Context
    ) -> api_pb2.SearchAppearanceResponse:
        """Tracks that look like a picture, an event's track or a code.

        Raises:
            NotFound: No such event or fleet.
            InvalidInput: Nothing to search for, or no span of time.
        """
        search = self._data.search
        await self._data.database.arun(lambda c: _check_fleet(c, request.fleet))
        kind = request.WhichOneof("query")
        if kind == "image":
            codes = await search.codes_of_image(request.image)
        elif kind == "event_id":
            codes = await search.codes_of_event(request.event_id)
        elif kind == "code":
            codes = search.codes_of_bytes(request.code)
        else:
            raise InvalidInput("there is nothing to search for", "give an image, event or code")
        since_s, until_s = _span(request.since_s, request.until_s)
        hits = await search.find(
            codes,
            request.top_k or DEFAULT_TOP_K,
            fleet=request.fleet,
            since_s=since_s,
            until_s=until_s,
        )
        return api_pb2.SearchAppearanceResponse(hits=map(_hit, hits), method=METHOD)

    @override
    async def GetIngestStats(
        self, request: api_pb2.GetIngestStatsRequest, context: Context
    ) -> api_pb2.IngestStats:
        """What a camera, a device or all have brought; repetitions and losses by device only."""
        device_id = request.device_id
        lanes = [
            counts
            for (name, _), counts in self._data.bus.lanes().items()
            if device_id in ("", name)
        ]
        stats, repeated, lost_events = await self._data.database.arun(
            lambda connection: (
                ingest.read_stats(connection, device_id, request.camera_id),
                ingest.duplicate_count(connection, device_id),
                ingest.lost_event_count(connection, device_id),
            )
        )
        return api_pb2.IngestStats(
            bytes_by_kind={
                "tracks": stats.track_bytes,
                "embeddings": stats.embedding_bytes,
                "events": stats.event_bytes,
                "crops": stats.crop_bytes,
                "envelope": stats.envelope_bytes,
            },
            batch_count=stats.batch_count,
            frame_count=stats.frame_count,
            event_count=stats.event_count,
            embedding_count=stats.embedding_count,
            duplicate_batch_count=repeated + sum(lane.duplicates for lane in lanes),
            # Devices say what they lost: what they make up must still fit the message.
            lost_batch_count=min(sum(lane.lost for lane in lanes), _MAX_COUNT),
            lost_event_count=min(lost_events, _MAX_COUNT),
            refused_row_count=stats.refused_row_count,
        )

    @override
    async def ListTracks(
        self, request: api_pb2.ListTracksRequest, context: Context
    ) -> api_pb2.ListTracksResponse:
        """Tracks, those seen last first."""
        since_s, until_s = _span(request.since_s, request.until_s)
        query = TrackQuery(request.device_id, request.camera_id, since_s, until_s)
        found = await self._data.database.arun(
            lambda connection: tracks.page(
                connection, query, _page_size(request.limit, tracks.MAX_PAGE)
            )
        )
        return api_pb2.ListTracksResponse(tracks=map(_track_record, found))


def _check_fleet(connection: Connection, fleet: str) -> None:
    """Raises NotFound if a filter names a fleet that there is not: a typo is no empty answer."""
    if fleet:
        devices.find_fleet(connection, fleet)


def _page_size(limit: int, most: int) -> int:
    if limit > most:
        raise InvalidInput(f"a page of {limit} is too large", f"ask for at most {most}")
    return limit or DEFAULT_PAGE


def _cursor(cursor: int) -> int:
    if cursor >= 2**63:
        raise InvalidInput(f"{cursor} is no cursor", "give one that an event came with")
    return cursor


def _span(since_s: float, until_s: float) -> tuple[float, float]:
    """Two times of which neither is NaN, in order."""
    if not (since_s >= 0 and until_s >= 0) or 0 < until_s < since_s:
        raise InvalidInput(
            f"{since_s} to {until_s} is no span of time",
            "give seconds since the Unix epoch, the earlier first, 0 for open",
        )
    return since_s, until_s


def _event_query(filter_: api_pb2.EventFilter) -> EventQuery:
    since_s, until_s = _span(filter_.since_s, filter_.until_s)
    if len(filter_.kinds) > MAX_KINDS:
        raise InvalidInput(f"{len(filter_.kinds)} kinds are too many", f"name up to {MAX_KINDS}")
    return EventQuery(
        fleet=filter_.fleet,
        device_id=filter_.device_id,
        camera_id=filter_.camera_id,
        kinds=frozenset(filter_.kinds),
        since_s=since_s,
        until_s=until_s,
    )


def _event_record(stored: StoredEvent) -> api_pb2.EventRecord:
    return api_pb2.EventRecord(
        event_id=stored.event_id,
        device_id=stored.device_id,
        fleet=stored.fleet,
        event=event_to_message(stored.shipped),
        received_timestamp_s=stored.received_timestamp_s,
        cursor=stored.cursor,
        model_digest=stored.model_digest,
    )


def _hit(hit: Hit) -> api_pb2.AppearanceHit:
    scene, sighting = hit.track.scene, hit.track.sighting
    return api_pb2.AppearanceHit(
        device_id=scene.device_id,
        camera_id=scene.camera_id,
        session=scene.session,
        track_id=sighting.track_id,
        first_timestamp_s=sighting.first_timestamp_s,
        last_timestamp_s=sighting.last_timestamp_s,
        matched_timestamp_s=hit.matched_timestamp_s,
        similarity=hit.similarity,
        class_id=sighting.class_id,
    )


def _track_record(track: StoredTrack) -> api_pb2.TrackRecord:
    sighting = track.sighting
    return api_pb2.TrackRecord(
        device_id=track.scene.device_id,
        camera_id=track.scene.camera_id,
        session=track.scene.session,
        track_id=sighting.track_id,
        class_id=sighting.class_id,
        first_timestamp_s=sighting.first_timestamp_s,
        last_timestamp_s=sighting.last_timestamp_s,
        frame_count=sighting.frame_count,
        last_xyxy=sighting.xyxy or (),
    )
