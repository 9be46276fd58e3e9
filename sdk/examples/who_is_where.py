"""Where were these people seen? Looks for each of several pictures or events, across all cameras.

    python sdk/examples/who_is_where.py ann.png bob.png --since-minutes 60
    python sdk/examples/who_is_where.py gate-1/123/45 --fleet park-a

Each query is a picture of one person (JPEG, PNG) or the id of an event about one. All are asked at
once, over one connection. What is compared is an appearance code, not a face: it answers "who wears
this", and the method is printed with the table because it is a baseline.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from camsdk import AsyncClient, CamError
from camsdk.client import AppearanceHit, SearchResult
from camsdk.client.profiles import embedded_profile, find_profile

EVENT_ID = re.compile(r"[^/]+/[0-9]+/[0-9]+")
COLUMNS = ("who", "camera", "from", "until", "similarity", "track", "device")


@dataclass(frozen=True)
class Sighting:
    """One query, seen by one camera for a while."""

    who: str
    hit: AppearanceHit

    def row(self) -> tuple[str, ...]:
        """As the table has it."""
        hit = self.hit
        return (
            self.who,
            hit.camera_id,
            _clock(hit.first_timestamp_s),
            _clock(hit.last_timestamp_s),
            f"{hit.similarity:.3f}",
            str(hit.track_id),
            hit.device_id,
        )


def _clock(timestamp_s: float) -> str:
    return datetime.fromtimestamp(timestamp_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def is_event(query: str) -> bool:
    """Whether a query is an event's id and not a picture's path."""
    return bool(EVENT_ID.fullmatch(query)) and not Path(query).exists()


def name_of(query: str) -> str:
    """``ann`` for ``pictures/ann.png``; an event's id stays as it is."""
    return query if is_event(query) else Path(query).stem


def sightings(who: str, result: SearchResult, min_similarity: float) -> list[Sighting]:
    """The hits that are good enough, the latest first."""
    good = [hit for hit in result if hit.similarity >= min_similarity]
    good.sort(key=lambda hit: hit.last_timestamp_s, reverse=True)
    return [Sighting(who, hit) for hit in good]


def format_table(rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


async def search(client: AsyncClient, query: str, options: argparse.Namespace) -> SearchResult:
    """One search."""
    since = time.time() - 60 * options.since_minutes if options.since_minutes else None
    return await client.search(
        image=None if is_event(query) else Path(query),
        event=query if is_event(query) else None,
        top_k=options.top_k,
        fleet=options.fleet,
        since=since,
    )


async def run(options: argparse.Namespace) -> None:
    """Searches and prints."""
    profile = embedded_profile(options.data) if options.data else find_profile(options.profile)
    async with AsyncClient(profile.server, credentials=profile.credentials()) as client:
        searches = [search(client, query, options) for query in options.queries]
        results = await asyncio.gather(*searches)
    found = [
        sighting
        for query, result in zip(options.queries, results, strict=True)
        for sighting in sightings(name_of(query), result, options.min_similarity)
    ]
    if options.json:
        rows = [{"who": sighting.who, **asdict(sighting.hit)} for sighting in found]
        print(json.dumps({"method": results[0].method, "sightings": rows}, indent=2))
        return
    print(format_table(sighting.row() for sighting in found) if found else "seen nowhere")
    print(f"compared by {results[0].method}", file=sys.stderr)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Where were these people seen?")
    parser.add_argument("queries", nargs="+", metavar="IMAGE|EVENT", help="picture or event id")
    parser.add_argument("--profile", default="", help="profile of camctl; default: its default")
    parser.add_argument("--data", type=Path, help="data folder of an embedded cloud, instead")
    parser.add_argument("--fleet", default="", help="only this fleet")
    parser.add_argument("--since-minutes", type=float, default=0.0, help="default: no limit")
    parser.add_argument("--top-k", type=int, default=5, help="hits a query (default: 5)")
    parser.add_argument("--min-similarity", type=float, default=0.8, help="default: 0.8")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the search; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        asyncio.run(run(options))
    except CamError as error:
        print(f"who_is_where: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
