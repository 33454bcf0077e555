"""Files that commands write: refused before an hour's work, and written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from harness.errors import InputError

__all__ = ["check_file", "check_folder", "write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole, or leave what was there.

    :raises InputError: when it cannot be written.
    """
    try:
        if _special(path):
            path.write_bytes(data)
            return
        handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path.resolve())
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InputError(f"{path}: the report must be writable: {error.strerror}") from None


def _special(path: Path) -> bool:
    """Say whether a path is a device or a pipe, which no other file can take the place of."""
    return path.exists() and not stat.S_ISREG(path.stat().st_mode)


def check_file(option: str, path: Path) -> None:
    """Refuse a file that could not be written.

    :param option: what an error calls it.
    :raises InputError: when it could not.
    """
    if path.is_dir():
        raise InputError(f"{option} must name a file, and {path} is a directory")
    parent = path.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{option} must name a file in a directory that is there or can be made, not {path}: "
            f"{error.strerror}"
        ) from None
    if not os.access(path if _special(path) else parent, os.W_OK):
        raise InputError(f"{option} must name a file that can be written, not {path}")


def check_folder(option: str, folder: Path) -> None:
    """Refuse a directory in which nothing could be written.

    :param option: what an error calls it.
    :raises InputError: when nothing could.
    """
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise InputError(f"{option} must name a directory, and {folder} is none")
    at = folder.absolute()
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir() or not os.access(at, os.W_OK):
        raise InputError(f"{option} must name a directory that can be written, not {folder}")
