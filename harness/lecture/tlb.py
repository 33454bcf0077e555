"""The TLB: what it saves, what bigger pages save on top, and what it does not know."""

from __future__ import annotations

from typing import NamedTuple

from harness.address import PageSize
from harness.describe.diagram import path_picture
from harness.lecture.chapter import Chapter, Stage
from harness.walker import leaves, walk

__all__ = ["TLB"]


class _Read(NamedTuple):
    # One read of tlb-stale: what was done before it, where its result is, what it may show.
    done: str
    register: str
    permitted: str


# SDM 3A 4.10.4: after an entry changes, either translation may be used until it is invalidated.
_READS = (
    _Read("entry → A, invlpg, write 0xa", "rbx", "A"),
    _Read("entry → B", "r8", "AB"),
    _Read("invlpg", "r9", "B"),
    _Read("entry → A", "r10", "AB"),
    _Read("mov cr3", "r11", "A"),
    _Read("GLOBAL, entry → B", "r12", "AB"),
    _Read("mov cr3", "r13", "AB"),
    _Read("invlpg", "r14", "B"),
)


def _tell(stage: Stage) -> None:
    _big_pages(stage)
    _stale(stage)


def _big_pages(stage: Stage) -> None:
    result = stage.run("tlb-fills")
    memory, cpu = result.machine.memory, result.machine.cpu
    registers = result.exit.registers
    small, big = (int(result.kernel.inputs[name]) for name in ("rdi", "rsi"))
    stage.picture("the buffer in 4 KiB pages", path_picture(memory, cpu, small))
    stage.picture("the same memory in one 2 MiB page", path_picture(memory, cpu, big))
    words = int(result.kernel.inputs["r8"])
    pages = leaves(memory, cpu).va.tolist()
    rows = [("", "4 KiB pages", "2 MiB page")]
    rows += [
        (what, str(registers[a]), str(registers[b]))
        for what, a, b in (
            ("leaf entries that the CPU used", "rax", "rbx"),
            ("times that it went to the tables", "r10", "r11"),
            ("the last 16 read again: times it went", "r12", "r13"),
        )
    ]
    stage.picture(
        f"{words} reads, 4 KiB apart",
        "\n".join(f"{what:<40}{first:>14}{second:>14}" for what, first, second in rows),
    )
    for name, start, register in (("4 KiB pages", small, "rax"), ("a 2 MiB page", big, "rbx")):
        held = sum(start <= va < start + PageSize.Size2MiB for va in pages)
        stage.check(
            f"leaf entries that were used for the buffer in {name}, out of those there are",
            said=str(registers[register]),
            predicted=str(held),
        )
    stage.note(
        f"Each time it goes to the tables it reads {len(walk(memory, cpu, small).steps)} entries "
        f"for a 4 KiB page and {len(walk(memory, cpu, big).steps)} for a 2 MiB page. A TLB with "
        f"entries of 2 MiB need go once for all of them; this CPU went {registers['r11']} times."
    )


def _stale(stage: Stage) -> None:
    result = stage.run("tlb-stale")
    memory = result.machine.memory
    registers = result.exit.registers
    frames = {
        letter: memory.read_u64(int(result.kernel.inputs[name]))
        for letter, name in (("A", "rdx"), ("B", "rcx"))
    }
    shown = {value: letter for letter, value in frames.items()}
    lines = []
    for read in _READS:
        seen = shown.get(registers[read.register], "neither")
        may = " or ".join(read.permitted)
        lines.append(f"{read.done:<32}─► frame {seen:<9} the manual permits {may}")
    stage.picture("what the same page showed after each step", "\n".join(lines))
    certain = [read for read in _READS if len(read.permitted) == 1]
    stage.check(
        "where the manual leaves no choice, the frame that the entry names",
        said=[registers[read.register] for read in certain],
        predicted=[frames[read.permitted] for read in certain],
    )
    either = [read for read in _READS if len(read.permitted) > 1]
    seen_there = [shown.get(registers[read.register], "neither") for read in either]
    stage.check(
        "where it does, the old frame or the new one, and never anything else",
        said=[f"frame {letter}" for letter in seen_there],
        predicted=[f"frame {letter if letter in 'AB' else 'A or B'}" for letter in seen_there],
    )


TLB = Chapter(
    name="tlb",
    title="The TLB and huge pages",
    lecture=(
        "The MMU uses the TLB, a small, fast cache, to store recent translations.",
        "Bigger pages gives less TLB utilization gives faster lookup.",
    ),
    claim="The CPU remembers translations: fewer for bigger pages, and stale ones until told.",
    conclusion="A changed entry counts for certain only after invlpg or a load of CR3.",
    tell=_tell,
)
