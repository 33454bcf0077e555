"""Pictures of page tables as text, drawn from what the tables hold.

Nothing here is drawn from memory of how it ought to be: each picture is a function of the physical
memory and the CPU's state, so that a table that is set up wrongly looks wrong.

* :func:`path_picture` follows one address: CR3, the entry that each table gives, the page or the
  fault. A table that comes by for the second time is marked ``↺``, and the indices appear in octal
  too, since that is where the recursive trick can be read off;
* :func:`table_picture` shows entries of one table and where they lead;
* :func:`strip_picture` is a stretch of memory cut into labelled pieces, with regions under it;
* :func:`window_picture` is a stretch of virtual memory above the physical memory that it shows;
* :func:`virtual_spans` cuts virtual memory into what is mapped there, for a strip, and
  :func:`physical_spans` physical memory into page tables and the rest;
* :func:`page_tables` says which frames hold page tables, and of which level.

All lines are plain text and at most 100 columns wide where the labels allow it; colour is for
whoever prints them.

>>> print(path_picture(memory, cpu, 0x4123))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, SupportsIndex

from harness.address import PageSize, format_address, is_canonical, table_name
from harness.cpu import CpuState, ErrorCode
from harness.entry import ADDRESS_MASK, PageTableEntry
from harness.mapping.recursive_address import octal
from harness.memory import PhysicalMemory
from harness.outcome import AccessLike, Outcome
from harness.walker import RangeKind, Step, Walk, ranges, walk

__all__ = [
    "WIDTH",
    "Region",
    "Span",
    "page_tables",
    "path_picture",
    "physical_spans",
    "strip_picture",
    "table_picture",
    "virtual_spans",
    "window_picture",
]

WIDTH = 100
"""Columns that a projected terminal has."""

_ARROW = "──►"
_KIB = 1024


class Span(NamedTuple):
    """A labelled piece of memory, from ``start`` up to ``end`` (exclusive)."""

    start: int
    end: int
    label: str


class Region(NamedTuple):
    """What is drawn below a strip: a piece of the same memory, and a remark beside it."""

    start: int
    end: int
    remark: str


def page_tables(memory: PhysicalMemory, cpu: CpuState) -> dict[int, int]:
    """Find the frames that hold page tables: physical address → level, in the order of levels.

    A table that is reachable at several levels (a recursive one) counts at the highest.
    """
    found: dict[int, int] = {}
    tables = [cpu.root] if memory.contains(cpu.root, 0x1000) else []
    for level in range(cpu.levels, 0, -1):
        found.update((table, level) for table in tables)
        following: dict[int, None] = {}
        for table in tables:
            for raw in _words(memory, table):
                if PageTableEntry(raw, level).is_table:
                    following.setdefault(raw & ADDRESS_MASK)
        tables = [t for t in following if t not in found and memory.contains(t, 0x1000)]
    return found


def virtual_spans(
    memory: PhysicalMemory, cpu: CpuState, end: int, *, other: str = "mapped"
) -> list[Span]:
    """Cut virtual memory from 0 up to ``end`` into pieces that show page tables, other pages, none.

    :param other: the label of pages that show no page table; those of gaps have none.
    """
    roles = page_tables(memory, cpu)
    spans: list[Span] = []
    for piece in ranges(memory, cpu):
        if piece.start >= end:
            break
        label = ""
        if piece.kind is RangeKind.PAGE:
            level = roles.get(walk(memory, cpu, piece.start).pa or 0)
            label = other if level is None else table_name(level)
        span = Span(piece.start, min(piece.end, end), label)
        if spans and spans[-1].label == label and label in ("", other):
            span = Span(spans.pop().start, span.end, label)
        spans.append(span)
    return spans


def physical_spans(memory: PhysicalMemory, cpu: CpuState, end: int) -> list[Span]:
    """Cut physical memory from 0 up to ``end`` into the frames of page tables, and what is between.

    Only the tables have a label.
    """
    spans: list[Span] = []
    at = 0
    for table, level in sorted(page_tables(memory, cpu).items()):
        if table >= end:
            break
        if table > at:
            spans.append(Span(at, table, ""))
        spans.append(Span(table, table + 0x1000, table_name(level)))
        at = table + 0x1000
    return [*spans, Span(at, end, "")] if at < end else spans


def path_picture(
    memory: PhysicalMemory,
    cpu: CpuState,
    va: SupportsIndex,
    access: AccessLike = "read",
    *,
    octal_indices: bool | None = None,
    width: int = WIDTH,
) -> str:
    """Draw the way from CR3 to the page of an address, or to the fault.

    :param va: the address, canonical or not.
    :param access: what is done there.
    :param octal_indices: write the indices in octal too; None does so where a table comes by twice.
    :param width: columns; a path that needs more goes on in a second row.
    """
    address = int(va)
    found = walk(memory, cpu, address, access)
    roles = page_tables(memory, cpu)
    visited = [step.address & ~0xFFF for step in found.steps]
    frame = _frame(found)
    in_octal = octal_indices
    if in_octal is None:
        in_octal = len({*visited, frame}) <= len(visited)
    columns = [_table_box(memory, step, roles, visited[:at], in_octal)
               for at, step in enumerate(found.steps)]  # fmt: skip
    columns.append(_end_box(found, roles))
    head = [f"{found.access.kind} of {format_address(address)}"]
    if in_octal and is_canonical(address, cpu.levels):
        head[0] += f" = {octal(address, cpu.levels)}"
    head += [f"CR3 = {format_address(cpu.cr3)}"]
    if not found.steps:
        return "\n".join([head[0], *columns[0].rows])
    lines = head
    row: list[_Box] = []
    for at, box in enumerate(columns):
        used = sum(each.width for each in row) + len(_ARROW) * len(row) + box.width
        if row and used > width - 1:
            lines += _side_by_side(row, more=True)
            row = []
        row.append(box)
        if at == 0:
            lines.append(" ▼")
    return "\n".join(lines + _side_by_side(row, more=False))


def table_picture(
    memory: PhysicalMemory,
    table: int,
    level: int,
    rows: Iterable[int],
    notes: Mapping[int, str] | None = None,
) -> str:
    """Draw entries of one table, each with where it leads.

    :param table: the table's physical address.
    :param level: which level it is of.
    :param rows: the indices to show; a gap between two is shown as ⋮.
    :param notes: what to say behind an entry, by index.
    """
    words = _words(memory, table)
    shown = sorted(set(rows))
    texts: list[tuple[str, str]] = []
    before = -1
    for index in shown:
        if index != before + 1:
            texts.append(("  ⋮", ""))
        entry = PageTableEntry(words[index], level)
        note = (notes or {}).get(index, "")
        if entry.is_present:
            note = f"─► {format_address(entry.address)}" + (f"  {note}" if note else "")
        texts.append((f"{index:3} {format_address(entry.raw)}", note))
        before = index
    if before != len(words) - 1:
        texts.append(("  ⋮", ""))
    inner = max(len(text) for text, _ in texts) + 2
    lines = [f"{table_name(level)} at {format_address(table)}", f"┌{'─' * inner}┐"]
    for text, note in texts:
        border = "├" if note.startswith("─►") else "│"
        lines.append(f"│ {text:<{inner - 1}}{border}{'' if border == '├' else ' '}{note}".rstrip())
    return "\n".join([*lines, f"└{'─' * inner}┘"])


def strip_picture(
    spans: Sequence[Span],
    regions: Sequence[Region] = (),
    *,
    unit: int = _KIB,
    unit_name: str = "KiB",
    width: int = WIDTH,
) -> str:
    """Draw a stretch of memory as a strip, not to scale, with regions of it underneath.

    :param spans: the pieces from left to right, without gaps between them.
    :param regions: drawn below, each on a line of its own, with its remark.
    :param unit: the borders are printed in this many bytes, and named ``unit_name``.
    """
    strip = _Strip(spans, [edge for r in regions for edge in (r.start, r.end)], unit, width)
    lines = [strip.ruler(unit_name), strip.edge("┌┬┐"), strip.labels(), strip.edge("└┴┘")]
    for start, end, remark in regions:
        left, right = strip.at(start), strip.at(end)
        drawn = " " * left + "└" + "─" * (right - left - 1) + "┘"
        room = width - len(drawn) - 1
        if len(remark) <= room:
            lines.append(f"{drawn} {remark}")
        elif len(remark) < left:
            lines.append(f"{remark:<{left}}{drawn[left:]}")
        else:
            lines += [drawn, " " * left + remark]
    return "\n".join(lines)


def window_picture(
    memory: PhysicalMemory,
    cpu: CpuState,
    offset: int,
    spans: Sequence[Span],
    *,
    unit: int = _KIB,
    unit_name: str = "KiB",
    width: int = WIDTH,
) -> str:
    """Draw physical memory, and above it the virtual memory at an offset that shows it.

    A piece is joined to the one above it where a walk of offset + start arrives at start; the
    upper strip says with which size of page.

    :param offset: the virtual address at which physical address 0 would appear.
    :param spans: the pieces of physical memory, without gaps between them.
    """
    arrows, above = [], []
    for start, end, _ in spans:
        found = walk(memory, cpu, offset + start)
        shown = found.completed and found.pa == start
        size = found.page_size
        arrows.append(shown)
        above.append(Span(start, end, size.letter if shown and size else ""))
    strip = _Strip(spans, (), unit, width, also=above)
    upper = strip.edge("└┴┘")
    middle = ""
    for (start, end, _), arrow in zip(spans, arrows, strict=True):
        centre = (strip.at(start) + strip.at(end)) // 2
        if arrow:
            upper = upper[:centre] + "┬" + upper[centre + 1 :]
            middle = f"{middle:<{centre}}▼"
    return "\n".join(
        [
            f"virtual: {format_address(offset)} + …",
            strip.edge("┌┬┐"),
            strip.labels(above),
            upper,
            middle,
            strip.edge("┌┬┐"),
            strip.labels(),
            strip.edge("└┴┘"),
            strip.ruler(unit_name),
            "physical",
        ]
    )


class _Strip:
    # Pieces of memory, and the column of each border. Borders are far enough apart for the labels
    # between them and the numbers at them; what is left over goes to the largest pieces.
    def __init__(
        self,
        spans: Sequence[Span],
        edges: Iterable[int],
        unit: int,
        width: int,
        also: Sequence[Span] = (),
    ) -> None:
        if any(a.end != b.start for a, b in pairwise(spans)) or not spans:
            raise ValueError("a strip's spans must follow each other without a gap")
        self._spans = spans
        self._unit = unit
        within = {edge for edge in edges if spans[0].start <= edge <= spans[-1].end}
        self._cuts = sorted({s.start for s in spans} | {spans[-1].end} | within)
        gaps = [max(2, len(self._number(cut)) + 1) for cut in self._cuts[:-1]]
        for span in (*spans, *also):
            inside = [i for i, cut in enumerate(self._cuts[:-1]) if span.start <= cut < span.end]
            lacking = len(span.label) + 3 - sum(gaps[i] for i in inside)
            if lacking > 0:
                gaps[max(inside, key=lambda i: self._cuts[i + 1] - self._cuts[i])] += lacking
        tail = len(self._number(self._cuts[-1])) + 5
        spare = max(0, width - sum(gaps) - tail)
        sizes = [b - a for a, b in pairwise(self._cuts)]
        large = [i for i, size in enumerate(sizes) if size * 4 >= max(sizes)]
        for place, i in enumerate(large):
            gaps[i] += min(spare // len(large), 24) if place else spare // len(large) // 2
        self._columns = [0]
        for gap in gaps:
            self._columns.append(self._columns[-1] + gap)

    def at(self, address: int) -> int:
        return self._columns[self._cuts.index(address)]

    def _number(self, address: int) -> str:
        return f"{address / self._unit:g}"

    def ruler(self, unit_name: str) -> str:
        line = ""
        for cut in self._cuts:
            line = f"{line:<{self.at(cut)}}{self._number(cut)} "
        return f"{line}{unit_name}"

    def edge(self, corners: str) -> str:
        left, middle, right = list(corners)
        line = left
        for span in self._spans:
            line = f"{line:─<{self.at(span.end)}}" + (middle if span != self._spans[-1] else right)
        return line

    def labels(self, spans: Sequence[Span] | None = None) -> str:
        line = "│"
        for start, end, label in spans or self._spans:
            line += f"{label:^{self.at(end) - self.at(start) - 1}}│"
        return line


class _Box(NamedTuple):
    title: list[str]
    rows: list[str]
    below: str
    arrow: bool
    width: int


def _table_box(
    memory: PhysicalMemory, step: Step, roles: dict[int, int], visited: list[int], in_octal: bool
) -> _Box:
    table, index = step.address & ~0xFFF, step.address % 0x1000 // 8
    words = _words(memory, table)
    above = next((i for i in range(index - 1, -1, -1) if words[i]), None)
    below = next((i for i in range(index + 1, 512) if words[i]), None)

    def row(at: int | None, room: bool) -> str:
        if at is None:
            return "  ⋮" if room else ""
        return f"{at:3} {format_address(words[at])}"

    rows = [row(above, index > 0), row(index, True), row(below, index < 511)]
    name = table_name(step.level)
    own = roles.get(table, step.level)
    if own != step.level:
        name = f"{table_name(own)} as {name}"
    title = [f"{name}{' ↺' if table in visited else ''}", f"at {format_address(table)}"]
    beneath = f"[{index}]" + (f" 0o{index:03o}" if in_octal else "")
    return _box(title, rows, beneath, arrow=True)


def _end_box(found: Walk, roles: dict[int, int]) -> _Box:
    if found.completed:
        frame = _frame(found)
        assert frame is not None
        assert found.page_size is not None
        assert found.pa is not None
        table = roles.get(frame) if found.page_size is PageSize.Size4KiB else None
        what = f"{found.page_size.letter} page"
        if table is not None:
            what += f" = {table_name(table)}"
        if found.outcome is Outcome.NO_MEMORY:
            what += ", no RAM"
        rows = ["", f"+ {format_address(found.pa - frame)}", f"= {format_address(found.pa)}"]
        return _box([what, f"at {format_address(frame)}"], rows, _holds(found), arrow=False)
    rows = [f"rule {found.rule}", "", ""]
    if found.outcome is Outcome.NO_MEMORY:
        rows[1:] = ["no RAM at", format_address(found.pa or 0)]
        return _box(["✗ no memory", ""], rows, "", arrow=False)
    if found.outcome is not Outcome.PAGE_FAULT:
        return _box(["✗ #GP", ""], ["✗ #GP: bits 63:47 are not all equal"], "", arrow=False)
    code = ErrorCode(found.error_code or 0)
    rows[1:] = [f"code {int(code):#x}", str(code) if code else "P = 0"]
    return _box(["✗ #PF", ""], rows, "", arrow=False)


def _holds(found: Walk) -> str:
    rights = found.rights
    assert rights is not None
    letters = zip("RWXU", (True, rights.writable, rights.executable, rights.user), strict=True)
    return "".join(letter if held else "-" for letter, held in letters)


def _frame(found: Walk) -> int | None:
    return None if found.frame is None else int(found.frame.start_address)


def _box(title: list[str], rows: list[str], below: str, *, arrow: bool) -> _Box:
    inner = max(*(len(row) + 2 for row in rows), *(len(t) - 1 for t in title), len(below) - 1)
    return _Box(title, rows, below, arrow, inner + 2)


def _side_by_side(boxes: list[_Box], *, more: bool) -> list[str]:
    lines = [""] * 8
    for box in boxes:
        inner = box.width - 2
        parts = [
            *(f"{text:<{box.width}}" for text in box.title),
            f"┌{'─' * inner}┐",
            *(f"│ {row:<{inner - 1}}│" for row in box.rows),
            f"└{'─' * inner}┘",
            f"{box.below:<{box.width}}",
        ]
        joined = box.arrow and (more or box is not boxes[-1])
        for at, part in enumerate(parts):
            if at == 4 and box.arrow:
                used = len(box.rows[1]) + 3
                part = f"{part[:used]}{'─' * (box.width - used - 1)}┼"
            lines[at] += part + (_ARROW if at == 4 and joined else "   ")
    return [line.rstrip() for line in lines]


def _words(memory: PhysicalMemory, table: int) -> list[int]:
    words: list[int] = memory.frame(table).tolist()
    return words
