"""The bus between gateway and analysis: durable, ordered per device, bounded, exactly once.

``port`` says what a bus is; ``log`` implements it in one process over a journal; ``journals`` keeps
the log in SQLite or in memory.
"""

from camcloud.bus.journals import MemoryJournal, SqliteJournal
from camcloud.bus.log import BusLimits, LogBus
from camcloud.bus.port import Bus, Delivery, LaneCounts, Publisher

__all__ = [
    "Bus",
    "BusLimits",
    "Delivery",
    "LaneCounts",
    "LogBus",
    "MemoryJournal",
    "Publisher",
    "SqliteJournal",
]
