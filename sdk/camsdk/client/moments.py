"""Points in time as applications have them, to seconds since the Unix epoch."""

import math
from datetime import datetime

from camsdk.errors import InvalidInput

Moment = float | datetime
"""Seconds since the Unix epoch, or a datetime that knows its time zone."""


def seconds(moment: Moment | None) -> float:
    """Seconds since the Unix epoch; 0.0, which the protocol reads as open, for None.

    Raises:
        InvalidInput: A datetime without a time zone (whose noon?), or no finite number.
    """
    if moment is None:
        return 0.0
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise InvalidInput(
                f"the time {moment.isoformat()} has no time zone",
                "use datetime.now(timezone.utc) or .astimezone()",
            )
        return moment.timestamp()
    value = float(moment)
    if not math.isfinite(value) or value < 0:
        raise InvalidInput(f"{value} is no time", "give seconds since the Unix epoch")
    return value
