"""Journals: what of a campaign is finished, on disk, whatever happens to the process.

A journal is a text file that only grows. Its first line is JSON and says which campaign it is of;
each further line is one finished shard, or one finding made small, behind the CRC-32 of its text::

    {"journal": "harness campaign", "format": 2, "work": "matrix classic", "identity": {...}}
    0f3a9c51 {"shard": [0, 17, 1114112, 65536], "tally": {...}}
    77e2b014 {"shrunk": "RSVD/2", "finding": {...}}

The numbers of a shard are its round, its number, its first case and its count. A line is written
by one ``write`` and is on the disk (``fsync``) before the campaign goes on. A process that is
killed leaves at most one torn line; a reader keeps the lines before the first one that is torn or
damaged and cuts the rest off, so that those shards run again::

    with Journal(path, "matrix classic", identity) as journal:
        journal.rounds[0].tally  # what earlier runs counted
        journal.add_shard(shard, tally_text)

It refuses with an :class:`~harness.errors.InputError` a file that is no journal, the journal of
another campaign (naming what differs), one that another run is using, and a disk that is full. A
file that it refuses it leaves as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from harness.check.findings.codec import finding_from_json, finding_to_json
from harness.check.findings.finding import Finding
from harness.check.findings.tally import Tally
from harness.check.work import Shard
from harness.errors import InputError
from harness.jsontext import loads, shown

__all__ = ["Finished", "Journal"]

_NAME: Final = "harness campaign"
_FORMAT: Final = 2
# A first line is a few hundred bytes; a file without line ends should not be read whole.
_LONGEST_FIRST_LINE: Final = 1 << 20


@dataclass(slots=True)
class Finished:
    """What of one round is finished.

    :ivar shards: ``(number, first, count)`` of each finished shard.
    :ivar tally: their sum.
    """

    shards: set[tuple[int, int, int]] = field(default_factory=set)
    tally: Tally = field(default_factory=Tally)


class Journal:
    """The journal of one campaign, open and locked until :meth:`close`.

    :param path: the file; it is made when there is none.
    :param work: the campaign's name.
    :param identity: all that its results depend on, as JSON values.
    :raises InputError: when the file cannot be used.
    :ivar rounds: what earlier runs finished, by round.
    :ivar shrunk: the findings that earlier runs made small, by key.
    """

    def __init__(self, path: Path, work: str, identity: dict[str, Any]) -> None:
        self.path = path
        self.rounds: defaultdict[int, Finished] = defaultdict(Finished)
        self.shrunk: dict[str, Finding] = {}
        first = {"journal": _NAME, "format": _FORMAT, "work": work, "identity": identity}
        with self._told():
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise InputError(f"{path}: a journal must be an ordinary file")
            self._lock()
            self._read(first)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and let others use it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def add_shard(self, shard: Shard, tally: dict[str, Any]) -> None:
        """Note that a shard is finished.

        :param tally: what it counted, in the tally's JSON form.
        """
        place = [shard.round, shard.number, shard.first, shard.count]
        self._add({"shard": place, "tally": tally})

    def add_shrunk(self, key: str, finding: Finding) -> None:
        """Note that a finding was made as small as it gets.

        :param key: the finding's, before it was made small.
        """
        self._add({"shrunk": key, "finding": finding_to_json(finding)})

    def _add(self, record: dict[str, Any]) -> None:
        text = json.dumps(record, separators=(",", ":"))
        self._write(b"%08x %s\n" % (zlib.crc32(text.encode()), text.encode()))

    def _write(self, line: bytes) -> None:
        with self._told():
            written = os.write(self._fd, line)
            os.fsync(self._fd)
        if written < len(line):
            raise InputError(f"{self.path}: the disk must have room for the journal, and is full")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path}: a journal must be used by one run at a time, and another run is "
                "using it"
            ) from None

    def _read(self, first: dict[str, Any]) -> None:
        with self._told(), open(self._fd, "rb", closefd=False) as file:
            whole = self._read_first(file, first)
            if whole:
                whole += sum(len(line) for line in self._whole_lines(file))
            os.ftruncate(self._fd, whole)
        if not whole:
            self._write(_line(first))
            self._sync_folder()

    def _read_first(self, file: BinaryIO, first: dict[str, Any]) -> int:
        """Return the length of the first line, 0 when it has to be written."""
        ours = _line(first)
        line = file.readline(_LONGEST_FIRST_LINE)
        if not line.endswith(b"\n") and ours.startswith(line):
            return 0  # empty, or killed while writing the first line
        try:
            theirs = loads(line)
        except InputError:
            theirs = None
        if not isinstance(theirs, dict) or theirs.get("journal") != _NAME:
            raise InputError(f"{self.path}: the file must be a campaign's journal, and is none")
        if theirs.get("format") != _FORMAT:
            raise InputError(
                f"{self.path}: the journal's format must be {_FORMAT}, "
                f"not {shown(theirs.get('format'))}"
            )
        self._compare("work", {"work": first["work"]}, {"work": theirs.get("work")})
        self._compare("identity", json.loads(ours)["identity"], theirs.get("identity"))
        return len(line)

    def _compare(self, name: str, ours: dict[str, Any], theirs: object) -> None:
        if not isinstance(theirs, dict):
            raise InputError(f"{self.path}: a journal's {name} must be an object")
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key) or (key in ours) != (key in theirs):
                raise InputError(
                    f"{self.path}: the journal must be of this campaign, whose {key} is "
                    f"{shown(ours.get(key))}, and it is of one whose {key} is "
                    f"{shown(theirs.get(key))}: name another file, or delete this one"
                )

    def _whole_lines(self, file: BinaryIO) -> Iterator[bytes]:
        """Take in each line up to the first that is not whole."""
        for line in file:
            checksum, _, text = line.removesuffix(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
                return
            record = json.loads(text)
            if "shard" in record:
                round, *place = record["shard"]
                self._take_in(self.rounds[round], tuple(place), record["tally"])
            else:
                self.shrunk[record["shrunk"]] = finding_from_json(record["finding"])
            yield line

    @staticmethod
    def _take_in(finished: Finished, place: Any, tally: dict[str, Any]) -> None:
        if place not in finished.shards:
            finished.shards.add(place)
            finished.tally += Tally.from_json(tally)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.path}: the journal must be a file that can be read and written: "
                f"{error.strerror}"
            ) from None

    # Else a crash of the machine might lose the file's name, and with it the file.
    def _sync_folder(self) -> None:
        with contextlib.suppress(OSError):
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _line(first: dict[str, Any]) -> bytes:
    return json.dumps(first, sort_keys=True).encode() + b"\n"
