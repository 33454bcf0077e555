"""What the readers of snapshots share: bounded reading, and filling RAM from a file.

A damaged or hostile file must end in one sentence, not in a full disk or a full memory: nothing
here reads a device or a pipe, and nothing unpacks more than it was told to. Every failure is a
:class:`~harness.errors.SnapshotError` that names the file.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from harness.errors import CaseError, InputError, SnapshotError
from harness.memory import PhysicalMemory

__all__ = ["MAX_UNPACKED", "blame", "fill", "open_file", "read_file", "unpack"]

MAX_UNPACKED: Final = 256 << 20
"""The most bytes that a file of a set may hold, unpacked: 63,770 tables, or 5 million rows."""

# What `xz -9` needs to unpack is 65 MiB.
_XZ_MEMORY = 128 << 20
_CHUNK = 1 << 18


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Turn an InputError or an OSError about a file's content into a SnapshotError that names it.

    :param path: the file or folder.
    """
    try:
        yield
    except SnapshotError:
        raise
    except CaseError as error:
        raise SnapshotError(error.message, path=path) from error
    except InputError as error:
        raise SnapshotError(str(error), path=path) from error
    except OSError as error:
        raise SnapshotError(
            f"the file must be readable: {error.strerror or error}", path=path
        ) from error
    except MemoryError as error:
        raise SnapshotError("this machine must have the memory to read it", path=path) from error


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file to read bytes, and name it in what goes wrong meanwhile.

    :param path: the file.
    :raises SnapshotError: when it is missing, unreadable, or a device, a pipe or a folder.
    """
    with blame(path):
        if path.exists() and not path.is_file():
            raise SnapshotError("this must be a regular file, and is not", path=path)
        with path.open("rb") as file:
            yield file


def read_file(path: Path, limit: int = MAX_UNPACKED) -> bytes:
    """Return the bytes of a file.

    :param path: the file.
    :param limit: the most bytes it may have.
    :raises SnapshotError: when it is larger, or cannot be read.
    """
    with open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise SnapshotError(f"the file must be at most {limit} bytes long", path=path)
    return data


def unpack(path: Path, limit: int = MAX_UNPACKED) -> bytes:
    """Return what an ``.xz`` file holds.

    :param path: the file.
    :param limit: the most bytes it may hold; unpacking stops there.
    :raises SnapshotError: when it holds more, is damaged, or ends early.
    """
    packed = read_file(path)
    parts: list[bytes] = []
    total = 0
    while packed:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        try:
            part = stream.decompress(packed, limit + 1 - total)
        except (lzma.LZMAError, EOFError) as error:
            raise SnapshotError(
                f"the file must be an intact .xz file: {str(error).lower()}", path=path
            ) from error
        total += len(part)
        if total > limit:
            raise SnapshotError(f"the file must unpack to at most {limit} bytes", path=path)
        if not stream.eof:
            raise SnapshotError("the .xz file must be complete, and ends early", path=path)
        parts.append(part)
        # The .xz format allows zero bytes between streams (section 2.2 of its specification).
        packed = stream.unused_data.lstrip(b"\0")
    if not parts:
        raise SnapshotError("the .xz file must not be empty", path=path)
    return b"".join(parts)


def fill(memory: PhysicalMemory, pa: int, file: BinaryIO, offset: int, size: int) -> int:
    """Copy bytes of a file into RAM, leaving the RAM of zero pages uncommitted.

    :param memory: RAM that has the bytes from ``pa`` on.
    :param pa: where the first byte goes.
    :param file: what to read.
    :param offset: where in it.
    :param size: bytes.
    :returns: how many bytes the file had there, less than ``size`` when it ends early.
    """
    file.seek(offset)
    done = 0
    while done < size:
        chunk = file.read(min(_CHUNK, size - done))
        if not chunk:
            break
        if np.frombuffer(chunk, np.uint8).any():
            memory.write(pa + done, chunk)
        done += len(chunk)
    return done
