"""A folder has one owner, until it lets go or is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from camagent.folder_lock import FolderLock
from camsdk.errors import Conflict


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(Conflict, match="another agent"):
        FolderLock(tmp_path, wait_s=0.06)
    lock.release()
    FolderLock(tmp_path, wait_s=0.0).release()


def test_a_killed_owner_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from camagent.folder_lock import FolderLock;"
        "lock = FolderLock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(Conflict):
            FolderLock(tmp_path, wait_s=0.0)
        owner.kill()
        FolderLock(tmp_path).release()
