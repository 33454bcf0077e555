"""Files of other tools: what is packed is unpacked, what is not read here is refused by name.

Taken for a raw dump, such a file would be walked, and everything in it called not present.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Self

from harness.errors import SnapshotError
from harness.jsontext import MAX_RAM
from harness.snapshot.files import blame

__all__ = ["START", "packed_as", "refuse_foreign", "unpacked"]

START: Final = 0x1000
"""The bytes that tell what a file is."""

_PACKED: Final = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_MOST: Final = 8 << 30
_AT_ONCE: Final = 1 << 12  # unpacks to no more than a few MiB
_RATIO: Final = 2_000
"""How many times its own size a file may unpack to: what dumps of mostly empty RAM reach."""

_WRITE_RAW: Final = "write the RAM as a raw dump (QEMU: pmemsave) or as an ELF core"
_FOREIGN: Final = (
    (0, b"KDUMP   ", "a kdump-compressed dump", "makedumpfile -E writes an ELF core"),
    (0, b"DISKDUMP", "a diskdump file", "makedumpfile -E writes an ELF core"),
    (0, b"PAGEDU64", "a Windows crash dump", _WRITE_RAW),
    (0, b"PAGEDUMP", "a Windows crash dump", _WRITE_RAW),
    (0, b"EMiL", "a LiME dump", "insmod lime.ko format=padded writes a raw one"),
    (0, b"AVML", "an AVML dump", "avml-convert --format raw writes a raw one"),
    (0, b"QEVM", "a QEMU migration stream", "dump-guest-memory writes an ELF core"),
    (0, b"QFI\xfb", "a qcow2 disk image", _WRITE_RAW),
    (0, b"HIBR", "a Windows hibernation file", _WRITE_RAW),
    (0, b"hibr", "a Windows hibernation file", _WRITE_RAW),
    (0, b"WAKE", "a Windows hibernation file", _WRITE_RAW),
    (0, b"wake", "a Windows hibernation file", _WRITE_RAW),
    (0xFF6, b"S1SUSPEND", "a Linux hibernation image", _WRITE_RAW),
    (0xFF6, b"LINHIB0001", "a Linux hibernation image", _WRITE_RAW),
    (0, b"\xd0\xbe\xd2\xbe", "a VMware snapshot", _WRITE_RAW),
    (0, b"\xd1\xba\xd1\xba", "a VMware snapshot", _WRITE_RAW),
    (0, b"\xd2\xbe\xd2\xbe", "a VMware snapshot", _WRITE_RAW),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first"),
    (0, b"BZh", "a bzip2 file", "unpack it first"),
)


def refuse_foreign(path: Path, start: bytes) -> None:
    """Refuse a file of a kind that is known and not read.

    :param start: its first :data:`START` bytes.
    :raises SnapshotError: naming the kind, and what to do.
    """
    for at, magic, name, instead in _FOREIGN:
        if start.startswith(magic, at):
            raise SnapshotError(f"this is {name}, which is not read here: {instead}", path=path)


def packed_as(start: bytes) -> str | None:
    """Name what packed a file, by its first bytes; None when it is not packed."""
    return next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)


@contextmanager
def unpacked(path: Path, kind: str) -> Iterator[Path]:
    """Give a temporary file that holds what a file packs.

    :param kind: from :func:`packed_as`.
    :raises SnapshotError: when it is damaged, or unpacks to too much.
    """
    limit = min(_MOST, MAX_RAM, max(1 << 20, path.stat().st_size * _RATIO))
    with tempfile.NamedTemporaryFile(prefix="harness-", suffix=".unpacked") as into:
        with blame(path), _reader(path, kind) as packed:
            try:
                _copy(packed, into, limit, path)
            except (EOFError, lzma.LZMAError, gzip.BadGzipFile, _zstd_error(kind)) as error:
                raise SnapshotError(
                    f"the {kind} file must be intact: {str(error).lower() or 'it ends early'}",
                    path=path,
                ) from None
        into.flush()
        yield Path(into.name)


def _reader(path: Path, kind: str) -> Any:
    if kind == "gzip":
        return gzip.open(path)
    if kind == "xz":
        return lzma.open(path)
    try:
        import zstandard
    except ImportError:
        raise SnapshotError(
            "a zstd file needs the package zstandard (pip install zstandard), or unpack it first",
            path=path,
        ) from None
    return _Zstd(path.open("rb"), zstandard.ZstdDecompressor())


class _Zstd:
    """Reads frames one after the other, and notices one that ends early."""

    def __init__(self, file: IO[bytes], decompressor: Any) -> None:
        self._file = file
        self._decompressor = decompressor
        self._frame: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Return some bytes, none at the end."""
        while True:
            packed = b"" if self._frame is None else self._frame.unused_data
            if self._frame is None or self._frame.eof:
                packed = packed or self._file.read(_AT_ONCE)
                if not packed:
                    return b""
                self._frame = self._decompressor.decompressobj()
            else:
                packed = self._file.read(_AT_ONCE)
                if not packed:
                    raise EOFError("it ends early")
            made: bytes = self._frame.decompress(packed)
            if made:
                return made


def _zstd_error(kind: str) -> type[Exception]:
    if kind != "zstd":
        return EOFError
    import zstandard

    error: type[Exception] = zstandard.ZstdError
    return error


def _copy(packed: Any, into: IO[bytes], limit: int, path: Path) -> None:
    """Copy what is packed; zeros become holes."""
    total = 0
    while chunk := packed.read(1 << 20):
        total += len(chunk)
        if total > limit or shutil.disk_usage(Path(into.name).parent).free < 2 << 20:
            raise SnapshotError(
                f"the file must unpack to at most {limit} bytes that this machine has room for",
                path=path,
            )
        if chunk.count(0) == len(chunk):
            into.seek(len(chunk), 1)
        else:
            into.write(chunk)
    into.truncate(total)
