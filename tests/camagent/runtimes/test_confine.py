"""What a confined process cannot do any more, and what it still can."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from camagent.runtimes import confine

pytestmark = pytest.mark.slow

ATTEMPTS = """
import ctypes, json, mmap, os, resource, socket, subprocess, sys, threading
from camagent.runtimes.confine import deny_system_calls, limit_resources
import asyncio, shutil, tempfile
left, right = socket.socketpair()
folder = sys.argv[1]
limit_resources(512 << 20)
problem = deny_system_calls()
libc = ctypes.CDLL(None, use_errno=True)

def raw(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

attempts = {
    "socket": lambda: socket.socket(),
    "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "fork": os.fork,
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "program": lambda: subprocess.run(["/bin/true"]),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill parent": lambda: os.kill(os.getppid(), 0),
    "thread kill of parent": lambda: raw("tgkill", os.getppid(), os.getppid(), 0),
    "create": lambda: open(folder + "/new", "w"),
    "append": lambda: open(folder + "/old", "a"),
    "read and write": lambda: open(folder + "/old", "r+"),
    "unnamed file": lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR),
    "unlink": lambda: os.unlink(folder + "/old"),
    "rename": lambda: os.rename(folder + "/old", folder + "/new"),
    "link": lambda: os.link(folder + "/old", folder + "/new"),
    "symlink": lambda: os.symlink("old", folder + "/new"),
    "mkdir": lambda: os.mkdir(folder + "/new"),
    "chmod": lambda: os.chmod(folder + "/old", 0o777),
    "truncate": lambda: os.truncate(folder + "/old", 0),
    "limits of parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
    "pidfd": lambda: os.pidfd_open(os.getppid()),
    "ptrace": lambda: raw("ptrace", 16, os.getppid(), 0, 0),
    "more memory": lambda: mmap.mmap(-1, 1 << 30),
}
results = {"problem": problem}
for name, attempt in attempts.items():
    try:
        attempt()
        results[name] = "done"
    except OSError as error:
        results[name] = error.errno
numbers = []
thread = threading.Thread(target=numbers.append, args=(1,))
thread.start()
thread.join()
left.sendall(b"x")
results["still works"] = [numbers, right.recv(1).decode(), open(folder + "/old").read()]
try:
    print([os.dup(0) for _ in range(200)])
except OSError as error:
    results["200 files"] = error.errno
print(json.dumps(results), flush=True)
os.abort()
"""


def test_a_confined_process(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("content")
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    results = json.loads(done.stdout)
    assert results.pop("problem") == ""
    assert results.pop("still works") == [[1], "x", "content"]
    assert results.pop("more memory") == 12  # ENOMEM
    assert results.pop("200 files") == 24  # EMFILE
    assert {name: code for name, code in results.items() if code != 1} == {}  # EPERM
    assert len(results) == 23
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "content"
    assert done.returncode == -signal.SIGABRT


def test_machines_without_a_list_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine.platform, "machine", lambda: "riscv64")
    assert confine.deny_system_calls() == "no list of system calls for riscv64"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_are_within_the_kernels_bounds(machine: str) -> None:
    instructions = confine._filter(machine, os.getpid())
    assert len(instructions) % 8 == 0
    assert len(instructions) // 8 <= 4096  # BPF_MAXINSNS
