"""Takes the right to write elsewhere and to connect from a program, then becomes that program.

    python -I -S confinement.py FOLDER... -- COMMAND...

Linux keeps such a promise for the process and all that it starts (Landlock, since 5.13; the rules
on connections since 6.7: https://docs.kernel.org/userspace-api/landlock.html). An older kernel
makes none, and the program runs with its other limits alone. Uses the standard library only: it
runs before any environment of Python is known.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # of every 64-bit architecture
_NO_NEW_PRIVILEGES = 38
_PATH_BENEATH = 1
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Writing files; removing and making entries of every kind."""

_TCP = 0b11
"""Binding and connecting."""


def confine(folders: Sequence[str]) -> bool:
    """Allow changes below ``folders`` alone, and no TCP; whether the kernel promised it.

    Raises:
        OSError: The kernel knows Landlock, but refused; or a folder does not exist.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    changes = _CHANGES | (_TRUNCATE if version >= 3 else 0)
    rights = struct.pack("=QQ", changes, _TCP) if version >= 4 else struct.pack("=Q", changes)
    ruleset = _called(libc, _CREATE_RULESET, rights, len(rights), 0)
    allowed = [(folder, changes) for folder in folders]
    for path, access in [*allowed, (os.devnull, changes & (_WRITE_FILE | _TRUNCATE))]:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _called(libc, _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, place), 0)
        os.close(place)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _called(libc, _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return True


def _called(libc: ctypes.CDLL, number: int, *arguments: bytes | int) -> int:
    found = int(libc.syscall(number, *arguments))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found


if __name__ == "__main__":
    end = sys.argv.index("--")
    confine(sys.argv[1:end])
    os.execv(sys.argv[end + 1], sys.argv[end + 1 :])  # noqa: S606 - it is what this is for
