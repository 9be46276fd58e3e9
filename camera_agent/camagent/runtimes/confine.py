"""What a process gives up before it touches what may be hostile: resources, then system calls.

The system call filter (Linux seccomp, ``Documentation/userspace-api/seccomp_filter.rst``) is a list
of what is denied, so that a new C library does not break a camera: no network, no other program, no
new process, no write to any file system, no signal to and no look into another process. What stays
is computing, reading files and answering on descriptors that are open already. Code that escaped
from a model's runtime could therefore read what this user may read, but take it nowhere.

It is a second wall behind the checks of the model. For root some ways round remain: the agent
should have a user of its own.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable, Mapping
from typing import Final

_MAX_OPEN_FILES: Final = 64
_MAX_WRITTEN_BYTES: Final = 1 << 16  # of the standard error's file; shared memory is not written

# As prctl(2) and the header linux/seccomp.h have them.
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_KILL: Final = 0x8000_0000
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000

# As linux/bpf_common.h has them: load a word of seccomp_data, jump if equal, if any bit is set, ...
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER: Final = 0  # offsets in seccomp_data
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16
_X32: Final = 0x4000_0000  # the other numbering of x86-64

_WRITING: Final = 0o3 | 0o100 | 0o1000 | 0o20000000  # O_ACCMODE, O_CREAT, O_TRUNC, O_TMPFILE
_CLONE_THREAD: Final = 0x0001_0000

_AUDIT_ARCHITECTURES: Final = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

# Numbers from asm/unistd_64.h and asm-generic/unistd.h. Denied with EPERM:
_DENIED: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {
        # network and what could stand in for it
        "socket": 41, "connect": 42, "bind": 49, "listen": 50, "socketpair": 53,
        "io_uring_setup": 425,
        # programs and processes
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "unshare": 272, "setns": 308,
        # other processes and the kernel
        "kill": 62, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
        "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438, "ptrace": 101,
        "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "userfaultfd": 323,
        "perf_event_open": 298, "add_key": 248, "request_key": 249, "keyctl": 250,
        # file systems
        "creat": 85, "truncate": 76, "unlink": 87, "unlinkat": 263, "rmdir": 84, "rename": 82,
        "renameat": 264, "renameat2": 316, "link": 86, "linkat": 265, "symlink": 88,
        "symlinkat": 266, "mkdir": 83, "mkdirat": 258, "mknod": 133, "mknodat": 259, "chmod": 90,
        "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94,
        "fchownat": 260, "mount": 165, "umount2": 166,
    },
    "aarch64": {
        "socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "connect": 203,
        "io_uring_setup": 425,
        "execve": 221, "execveat": 281, "unshare": 97, "setns": 268,
        "kill": 129, "tkill": 130, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
        "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438, "ptrace": 117,
        "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280, "userfaultfd": 282,
        "perf_event_open": 241, "add_key": 217, "request_key": 218, "keyctl": 219,
        "truncate": 45, "unlinkat": 35, "renameat": 38, "renameat2": 276, "linkat": 37,
        "symlinkat": 36, "mkdirat": 34, "mknodat": 33, "fchmod": 52, "fchmodat": 53,
        "fchmodat2": 452, "fchown": 55, "fchownat": 54, "mount": 40, "umount2": 39,
    },
}  # fmt: skip
# Their flags lie behind a pointer, which a filter cannot follow. C libraries use the older calls.
_ABSENT: Final = {"clone3": 435, "openat2": 437}
# Number, and which argument holds the flags:
_OPENING: Final = {"x86_64": {2: 1, 257: 2}, "aarch64": {56: 2}}
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_TGKILL: Final = {"x86_64": 234, "aarch64": 131}
_PRLIMIT: Final = {"x86_64": 302, "aarch64": 261}


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def limit_resources(memory_bytes: int) -> None:
    """Bound address space, core files, written files and descriptors of this process for good."""
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_WRITTEN_BYTES),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
    ):
        resource.setrlimit(kind, (limit, limit))


def deny_system_calls() -> str:
    """Install the filter for this thread and all that it starts; call it before there are others.

    Returns:
        Why it could not be installed, or empty. The process is as limited as before then.
    """
    machine = platform.machine()
    if machine not in _DENIED:
        return f"no list of system calls for {machine}"
    instructions = _filter(machine, os.getpid())
    program = _Program(len(instructions) // 8, instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        return f"the kernel has no system call filter: {os.strerror(ctypes.get_errno())}"
    return ""


def _filter(machine: str, pid: int) -> bytes:
    """``struct sock_filter[]``: first rule that fits, else allow."""
    rules = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCHITECTURES[machine], skip_if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        rules += [_instruction(_JUMP_GREATER_EQUAL, _X32, skip_if_false=1), _deny(errno.EPERM)]
    for code, numbers in (
        (errno.EPERM, _DENIED[machine].values()),
        (errno.ENOSYS, _ABSENT.values()),
    ):
        rules += _deny_each(numbers, code)
    for number, argument in _OPENING[machine].items():
        rules += _deny_by_argument(number, argument, _JUMP_ANY_BIT, _WRITING, is_denied=True)
    rules += _deny_by_argument(_CLONE[machine], 0, _JUMP_ANY_BIT, _CLONE_THREAD, is_denied=False)
    # abort(3) signals its own process; no other may be.
    rules += _deny_by_argument(_TGKILL[machine], 0, _JUMP_EQUAL, pid, is_denied=False)
    # getrlimit(3) asks about its own process, 0; a CPU limit on another would kill it.
    rules += _deny_by_argument(_PRLIMIT[machine], 0, _JUMP_EQUAL, 0, is_denied=False)
    return b"".join([*rules, _instruction(_RETURN, _ALLOW)])


def _deny_each(numbers: Iterable[int], code: int) -> list[bytes]:
    rules = []
    for number in numbers:
        rules += [_instruction(_JUMP_EQUAL, number, skip_if_false=1), _deny(code)]
    return rules


def _deny_by_argument(
    number: int, argument: int, test: int, value: int, *, is_denied: bool
) -> list[bytes]:
    """For one call, deny or allow what passes a test of the low half of one argument."""
    passed, failed = _deny(errno.EPERM), _instruction(_RETURN, _ALLOW)
    if not is_denied:
        passed, failed = failed, passed
    return [
        _instruction(_JUMP_EQUAL, number, skip_if_false=4),
        _instruction(_LOAD, _ARGUMENTS + 8 * argument),
        _instruction(test, value, skip_if_false=1),
        passed,
        failed,
    ]


def _deny(code: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | code)


def _instruction(code: int, value: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, skip_if_true, skip_if_false, value)
