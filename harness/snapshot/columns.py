"""Read a page-table set's CSV files into columns, half a million rows in a fraction of a second.

``truth.csv.xz`` of one UEFI shell has 528,311 rows. Python's ``csv`` reader makes a list of five
strings of each; here the text stays one byte array, its separators are found at once, and a field
is decoded for all rows together. Every byte of the file is looked at: the first row that does not
read as the format says raises :class:`~harness.errors.SnapshotError` with the file and the line::

    >>> text = b"va,pa,size,flags,source\\n0000000000400000,84af000,4K,X---A--U-,info tlb\\n"
    >>> truth = Truth.parse(text, "truth.csv")
    >>> truth[0]
    TruthRow(va=4194304, pa=139128832, size='4K', flags='X---A--U-', source='info tlb')
    >>> hex(truth.flags[0])
    '0x8000000000000024'
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import SnapshotError

__all__ = ["FLAG_BITS", "KINDS", "SIZES", "SOURCES", "Truth", "TruthRow", "Unmapped", "UnmappedRow"]

FLAG_BITS: Final = {"X": 63, "G": 8, "P": 7, "D": 6, "A": 5, "C": 4, "T": 3, "U": 2, "W": 1}
"""Letter → bit of a leaf entry, in the order of the ``flags`` field. QEMU prints bit 7 as P
whatever the level: a big page's PS, or the PAT bit of a 4 KiB page's PTE (``print_pte`` in
target/i386/monitor.c)."""

SIZES: Final = ("4K", "2M", "1G")
"""Page sizes as the ``size`` field writes them; the index is the leaf's level less one."""

SOURCES: Final = ("info tlb", "gva2gpa")
"""Where a row of truth comes from: every leaf at its base, or a sampled address inside a page."""

KINDS: Final = ("noncanonical", "gap", "edge", "random")
"""Why an unmapped address was picked."""


class TruthRow(NamedTuple):
    """One address that QEMU translated, in the words of the file."""

    va: int
    pa: int
    size: str
    flags: str
    source: str


class UnmappedRow(NamedTuple):
    """One address that QEMU called unmapped, and why it was picked."""

    va: int
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What QEMU said of each mapped address, one column for each field of ``truth.csv``.

    :ivar va: virtual addresses, u64.
    :ivar pa: physical addresses, u64.
    :ivar level: the leaf's level, u8: 1 for ``4K``, 2 for ``2M``, 3 for ``1G``.
    :ivar flags: the leaf entry's own bits at their places in the entry, u64: to be compared with
        ``raw & Truth.FLAG_MASK``.
    :ivar source: index in :data:`SOURCES`, u8.
    """

    va: NDArray[np.uint64]
    pa: NDArray[np.uint64]
    level: NDArray[np.uint8]
    flags: NDArray[np.uint64]
    source: NDArray[np.uint8]

    HEADER = b"va,pa,size,flags,source"
    FLAG_MASK = sum(1 << bit for bit in FLAG_BITS.values())

    @classmethod
    def parse(cls, text: bytes, path: Path | str) -> Truth:
        """Read the text of a ``truth.csv``.

        :param text: the whole file, decompressed.
        :param path: what an error calls the file.
        :raises SnapshotError: for the first line that is not as the format says.
        """
        rows = _Rows(text, path, cls.HEADER)
        return cls(
            rows.hexadecimal(0),
            rows.hexadecimal(1, below=1 << 52),
            rows.choice(2, SIZES) + np.uint8(1),
            rows.letters(3, FLAG_BITS),
            rows.choice(4, SOURCES),
        )

    @property
    def page_size(self) -> NDArray[np.uint64]:
        """Give each row's page size in bytes, u64."""
        return np.array([0, 1 << 12, 1 << 21, 1 << 30], np.uint64)[self.level]

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Say which rows are leaves at their base (``info tlb``), not samples inside pages."""
        leaves: NDArray[np.bool_] = self.source == SOURCES.index("info tlb")
        return leaves

    def __len__(self) -> int:
        return len(self.va)

    def __iter__(self) -> Iterator[TruthRow]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> TruthRow:
        flags = int(self.flags[index])
        letters = [letter if flags >> bit & 1 else "-" for letter, bit in FLAG_BITS.items()]
        return TruthRow(
            int(self.va[index]),
            int(self.pa[index]),
            SIZES[self.level[index] - 1],
            "".join(letters),
            SOURCES[self.source[index]],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Unmapped:
    """Addresses that QEMU called unmapped, one column for each field of ``unmapped.csv``.

    :ivar va: virtual addresses, u64; not all are canonical.
    :ivar kind: index in :data:`KINDS`, u8.
    """

    va: NDArray[np.uint64]
    kind: NDArray[np.uint8]

    HEADER = b"va,kind"

    @classmethod
    def parse(cls, text: bytes, path: Path | str) -> Unmapped:
        """Read the text of an ``unmapped.csv``.

        :param text: the whole file.
        :param path: what an error calls the file.
        :raises SnapshotError: for the first line that is not as the format says.
        """
        rows = _Rows(text, path, cls.HEADER)
        return cls(rows.hexadecimal(0), rows.choice(1, KINDS))

    def __len__(self) -> int:
        return len(self.va)

    def __iter__(self) -> Iterator[UnmappedRow]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> UnmappedRow:
        return UnmappedRow(int(self.va[index]), KINDS[self.kind[index]])


# The value of each byte as a hexadecimal digit, 255 where it is none.
_DIGITS = np.full(256, 255, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
_DIGITS[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16, dtype=np.uint8)


class _Rows:
    """The lines of a CSV file after its header, as the positions where their fields lie."""

    def __init__(self, text: bytes, path: Path | str, header: bytes) -> None:
        self.path = path
        self.names = header.decode().split(",")
        found = text[:1024].partition(b"\n")[0]
        if found != header:
            raise SnapshotError(
                f"line 1 must be {header.decode()!r}, not {_quote(found)}", path=path
            )
        if not text.endswith(b"\n"):
            text += b"\n"
        self.text = text
        self.bytes = np.frombuffer(text, np.uint8)[len(header) + 1 :]
        self.first = len(header) + 1
        ends = np.flatnonzero(self.bytes == ord("\n"))
        commas = np.flatnonzero(self.bytes == ord(","))
        starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        per_line = len(self.names) - 1
        before = np.searchsorted(commas, ends)
        wrong = np.diff(before, prepend=0) != per_line
        if wrong.any():
            row = int(wrong.argmax())
            line = text[self.first + starts[row] : self.first + ends[row]]
            raise self._error(row, f"there must be {per_line + 1} fields, not {_quote(line)}")
        cuts = commas.reshape(len(ends), per_line)
        self.starts = np.column_stack([starts, cuts + 1])
        self.ends = np.column_stack([cuts, ends])

    def _error(self, row: int, sentence: str) -> SnapshotError:
        return SnapshotError(f"line {row + 2}: {sentence}", path=self.path)

    def _refuse(self, wrong: NDArray[np.bool_], field: int, rule: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            start, end = self.starts[row, field], self.ends[row, field]
            given = _quote(self.text[self.first + start : self.first + end])
            raise self._error(row, f"{self.names[field]} must be {rule}, not {given}")

    def hexadecimal(self, field: int, *, below: int = 1 << 64) -> NDArray[np.uint64]:
        """Decode a field of 1 to 16 hexadecimal digits."""
        start, length = self._spans(field)
        self._refuse((length < 1) | (length > 16), field, "1 to 16 hexadecimal digits")
        value = np.zeros(len(start), np.uint64)
        wrong = np.zeros(len(start), np.bool_)
        for place in range(int(length.max(initial=0))):
            inside = length > place
            digit = _DIGITS[self.bytes[start + np.where(inside, place, 0)]]
            wrong |= digit == 255
            value = np.where(inside, value << np.uint64(4) | digit, value)
        self._refuse(wrong, field, "1 to 16 hexadecimal digits")
        self._refuse(value > np.uint64(below - 1), field, f"below {below:#x}")
        return value

    def choice(self, field: int, words: Sequence[str]) -> NDArray[np.uint8]:
        """Decode a field that holds one of a few words into the word's index."""
        start, length = self._spans(field)
        index = np.full(len(start), 255, np.uint8)
        for number, word in enumerate(words):
            rows = np.flatnonzero(length == len(word))
            for place, letter in enumerate(word.encode()):
                rows = rows[self.bytes[start[rows] + place] == letter]
            index[rows] = number
        self._refuse(index == 255, field, " or ".join(words))
        return index

    def letters(self, field: int, bits: dict[str, int]) -> NDArray[np.uint64]:
        """Decode a field of fixed places, each its letter or ``-``, into a word of bits."""
        start, length = self._spans(field)
        rule = f"{''.join(bits)} with '-' for each letter that is clear"
        self._refuse(length != len(bits), field, rule)
        value = np.zeros(len(start), np.uint64)
        wrong = np.zeros(len(start), np.bool_)
        for place, (letter, bit) in enumerate(bits.items()):
            given = self.bytes[start + place]
            is_set = given == ord(letter)
            wrong |= ~is_set & (given != ord("-"))
            value |= is_set.astype(np.uint64) << np.uint64(bit)
        self._refuse(wrong, field, rule)
        return value

    def _spans(self, field: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start = self.starts[:, field]
        return start, self.ends[:, field] - start


def _quote(raw: bytes) -> str:
    shown = repr(raw[:40].decode("latin-1"))
    return shown if len(raw) <= 40 else f"{shown}..."
