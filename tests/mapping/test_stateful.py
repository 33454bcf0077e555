"""All tricks at once: random operations, after each of which they agree with each other and walk.

Each trick works on tables of its own in a memory of its own. The same operation is asked of all;
all must give the same answer or the same error, their tables must map the same addresses in the
same way, as `walk` sees them, and every frame that is given out must be a page table. At the end
the CPU is asked of every page, by reads, writes and fetches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState
from harness.engine import open_engine
from harness.entry import PageTableFlags
from harness.frames import EmptyFrameAllocator
from harness.mapping import (
    AtEntry,
    MapperFlush,
    MapperFlushAll,
    TranslateResult,
)
from harness.mapping.flavours import Flavour, Lab, set_up
from harness.outcome import UNKNOWN_PA, AccessKind, Outcome
from harness.walker import bulk, walk

P = PageTableFlags.PRESENT
W = PageTableFlags.WRITABLE
HUGE = PageTableFlags.HUGE_PAGE
AD = PageTableFlags.ACCESSED | PageTableFlags.DIRTY

# Few places, so that operations meet; two in each table, and on both sides of the hole.
BASES = [0x0000_7000_0000_0000, 0x0000_7000_4000_0000, 0xFFFF_9000_0000_0000]
OFFSETS = [0, 0x1000, 0x1F_F000, 0x20_0000, 0x3FFF_F000]
PLACES = st.builds(lambda base, at: base + at, st.sampled_from(BASES), st.sampled_from(OFFSETS))
SIZES = st.sampled_from(PageSize)
LEAF_FLAGS = st.builds(
    lambda bits: PageTableFlags(int(P) | bits),
    st.sampled_from([0, 2, 4, 6, 1 << 8, 1 << 9, 1 << 63, 1 << 63 | 2]),
)
TABLE_FLAGS = st.sampled_from([P, P | W, P | W | PageTableFlags.USER_ACCESSIBLE])
RAM, TABLES = 8 << 20, 1 << 20


@dataclass(frozen=True)
class Answer:
    """What an operation said, in a form that does not name addresses of tables."""

    kind: str
    what: object = None


def ask(call: Callable[[], Any]) -> Answer:
    try:
        result = call()
    except AtEntry as error:
        # A parent's value holds the frame of a table, which differs from trick to trick.
        return Answer(type(error).__qualname__, (error.page, error.level))
    if isinstance(result, tuple):
        frame, receipt = result
        receipt.flush()
        return Answer("frame", frame)
    if isinstance(result, MapperFlush):
        result.flush()
    elif isinstance(result, MapperFlushAll):
        result.flush_all()
    else:
        return Answer("value", result)
    return Answer("done")


class AllTricks(RuleBasedStateMachine):
    """The same operations on every trick."""

    pages = Bundle("pages")
    levels = 4

    @initialize()
    def boot(self) -> None:
        cpu = CpuState(cr4=0x20 if self.levels == 4 else 0x1020)
        self.labs = [set_up(flavour, cpu=cpu, ram=RAM, table_memory=TABLES) for flavour in Flavour]
        for lab in self.labs:
            # What the tricks need differs, but all may make the same number of new tables.
            while lab.frames.free > 40:
                lab.frames.allocate_frame()
        self.lost = {
            lab.flavour: lab.frames.allocated - len(list(lab.boot.tables())) for lab in self.labs
        }
        self.mapped: dict[Page, tuple[PhysFrame, PageTableFlags]] = {}
        self.touched: set[int] = set()

    def place(self, va: int) -> int:
        """Move an address, with 5 levels, to where no trick has tables of its own."""
        return va if self.levels == 4 else va ^ 0x55 << 48

    def page(self, va: int, size: PageSize) -> Page:
        page = Page.containing_address(VirtAddr(self.place(va), self.levels), size)
        self.touched |= {int(page.start_address), int(page.start_address) + size.value - 1}
        return page

    def all_agree(self, operation: Callable[[Lab], Any]) -> Answer:
        answers = [ask(lambda lab=lab: operation(lab)) for lab in self.labs]  # type: ignore[misc]
        assert set(map(repr, answers)) == {repr(answers[0])}
        return answers[0]

    @rule(
        target=pages,
        va=PLACES,
        size=SIZES,
        number=st.integers(0, 1000),
        flags=LEAF_FLAGS,
        tables=st.none() | TABLE_FLAGS,
        frames=st.booleans(),
    )
    def map_to(
        self,
        va: int,
        size: PageSize,
        number: int,
        flags: PageTableFlags,
        tables: PageTableFlags | None,
        frames: bool,
    ) -> Any:
        page = self.page(va, size)
        frame = PhysFrame(PhysAddr(number % (1 << 9) * size.value), size)

        def operation(lab: Lab) -> MapperFlush:
            allocator = lab.frames if frames else EmptyFrameAllocator()
            if tables is None:
                return lab.mapper.map_to(page, frame, flags, allocator)
            return lab.mapper.map_to_with_table_flags(page, frame, flags, tables, allocator)

        if self.all_agree(operation).kind != "done":
            return multiple()
        self.mapped[page] = frame, flags
        return page

    @rule(
        target=pages,
        base=st.sampled_from(BASES),
        start=st.integers(0, 600),
        count=st.sampled_from([0, 1, 2, 7, 60, 513, 520]),
        target_start=st.sampled_from([0, 1, 512, 513, 7 << 18]),
        flags=LEAF_FLAGS,
        largest=SIZES,
    )
    def map_range(
        self,
        base: int,
        start: int,
        count: int,
        target_start: int,
        flags: PageTableFlags,
        largest: PageSize,
    ) -> Any:
        va, pa, length = base + start * 4096, (target_start + start) * 4096, count * 4096
        va = self.place(va)
        answer = self.all_agree(
            lambda lab: lab.mapper.map_range(va, pa, length, flags, lab.frames, largest=largest)
        )
        if answer.kind != "done":
            return multiple()
        new = []
        end = va + length
        while va < end:
            found = self.labs[0].mapper.translate(va)
            assert isinstance(found, TranslateResult.Mapped)
            assert found.address == PhysAddr(pa)
            assert found.frame.size <= largest
            page = Page(VirtAddr(va, self.levels), found.frame.size)
            self.mapped[page] = found.frame, flags
            new.append(page)
            va += found.frame.size
            pa += found.frame.size
        # Not every page of a long range is looked at after every step.
        some = [*new[:2], *new[-1:]]
        self.touched |= {int(page.start_address) for page in some}
        return multiple(*some)

    @rule(page=consumes(pages))
    def unmap(self, page: Page) -> None:
        answer = self.all_agree(lambda lab: lab.mapper.unmap(page))
        expected = self.mapped.pop(page, None)
        if expected is None:
            assert answer.kind != "frame"
        else:
            assert answer == Answer("frame", expected[0])

    @rule(va=PLACES, size=SIZES)
    def unmap_anything(self, va: int, size: PageSize) -> None:
        page = self.page(va, size)
        if self.all_agree(lambda lab: lab.mapper.unmap(page)).kind == "frame":
            del self.mapped[page]
        else:
            assert page not in self.mapped

    @rule(page=pages, flags=LEAF_FLAGS)
    def update_flags(self, page: Page, flags: PageTableFlags) -> None:
        answer = self.all_agree(lambda lab: lab.mapper.update_flags(page, flags))
        assert (answer.kind == "done") == (page in self.mapped)
        if answer.kind == "done":
            self.mapped[page] = self.mapped[page][0], flags

    @rule(page=pages, level=st.sampled_from([2, 3, 4]), flags=TABLE_FLAGS)
    def set_flags_of_a_table(self, page: Page, level: int, flags: PageTableFlags) -> None:
        name = f"set_flags_p{level}_entry"
        self.all_agree(lambda lab: getattr(lab.mapper, name)(page, flags))

    @rule(va=PLACES, size=SIZES)
    def translate_page(self, va: int, size: PageSize) -> None:
        page = self.page(va, size)
        answer = self.all_agree(lambda lab: lab.mapper.translate_page(page))
        if page in self.mapped:
            assert answer == Answer("value", self.mapped[page][0])
        else:
            assert answer.kind.startswith("TranslateError.")

    @rule()
    def clean_up(self) -> None:
        self.all_agree(lambda lab: lab.mapper.clean_up(lab.frames))

    @rule(va=PLACES, count=st.integers(1, 2000))
    def clean_up_addr_range(self, va: int, count: int) -> None:
        first = self.page(va, PageSize.Size4KiB)
        end = first + count
        pages = Page.range(first, end)
        self.all_agree(lambda lab: lab.mapper.clean_up_addr_range(pages, lab.frames))

    @invariant()
    def every_frame_given_out_is_a_table(self) -> None:
        for lab in getattr(self, "labs", []):
            tables = len(list(lab.boot.tables()))
            assert lab.frames.allocated == tables + self.lost[lab.flavour], lab.flavour

    @invariant()
    def all_map_the_same_as_walk_sees_it(self) -> None:
        for va in sorted(getattr(self, "touched", ())):
            first, *others = [self.seen(lab, va) for lab in self.labs]
            assert all(other == first for other in others)
            around = [Page.containing_address(VirtAddr(va, self.levels), size) for size in PageSize]
            page = next((page for page in around if page in self.mapped), None)
            if page is None:
                assert first[0] is None
            else:
                frame, flags = self.mapped[page]
                offset = va - int(page.start_address)
                assert first[:2] == (frame.start_address + offset, int(flags & ~HUGE))

    def seen(self, lab: Lab, va: int) -> tuple[object, ...]:
        """Give what a mapper says of an address, after holding it against walk."""
        result = lab.mapper.translate(va)
        found = walk(lab.memory, lab.space.cpu, va, "fetch")
        if found.rule == "PRESENT":
            assert isinstance(result, TranslateResult.NotMapped)
            assert result.entry == found.steps[-1]
            return None, result.entry.level
        assert isinstance(result, TranslateResult.Mapped)
        leaf = found.steps[-1].entry
        assert (result.frame, int(result.flags)) == (leaf.frame(), int(leaf.flags))
        return result.address, int(result.flags & ~(HUGE | AD)), found.rights

    def teardown(self) -> None:
        labs = getattr(self, "labs", [])
        for lab in labs:
            self.ask_the_cpu(lab)
        for page in list(self.mapped) if labs else []:
            self.unmap(page)
        for lab in labs:
            lab.mapper.clean_up(lab.frames).flush_all()
            assert lab.frames.allocated == len(list(lab.boot.tables())) + self.lost[lab.flavour]
            for va in self.touched:
                assert lab.mapper.translate_addr(va) is None

    def ask_the_cpu(self, lab: Lab) -> None:
        """Hold what walk says of every page against an engine's probes."""
        pages = {int(page.start_address) for page in self.mapped}
        vas = np.array(sorted(pages | self.touched), np.uint64)
        with open_engine("unicorn", lab.memory) as engine:
            for kind in AccessKind:
                if engine.unsupported(lab.space.cpu, kind) is not None or not len(vas):
                    continue
                predicted = bulk(lab.memory, lab.space.cpu, vas, kind)
                observed = engine.probe_many(lab.space.cpu, vas, kind)
                assert observed.outcome.tolist() == predicted.outcome.tolist()
                faults = predicted.outcome == Outcome.PAGE_FAULT.code
                assert (observed.error_code == predicted.error_code)[faults].all()
                known = ~faults & (observed.pa != np.uint64(UNKNOWN_PA))
                assert (observed.pa == predicted.pa)[known].all()


class AllTricks5(AllTricks):
    """The same with 5 levels."""

    levels = 5


def run(machine: type[AllTricks], examples: int) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=20, deadline=None)
    )


@pytest.mark.parametrize("machine", [AllTricks, AllTricks5])
def test_all_tricks_at_once(machine: type[AllTricks]) -> None:
    run(machine, 8)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [AllTricks, AllTricks5])
def test_all_tricks_at_once_for_longer(machine: type[AllTricks]) -> None:
    run(machine, 200)
