"""Single probes: each from pristine state, everything put back, every answer the manual's."""

from typing import Any

import numpy as np
import pytest
from unicorn import UC_ARCH_X86, UC_MODE_64, Uc, UcError, x86_const

from harness.cpu import CR4, EFER, RFLAGS, CpuFeatures
from harness.errors import InputError
from harness.outcome import Access, AccessKind, Observation, Outcome

P, W, U, A, D, PS = 1, 2, 4, 0x20, 0x40, 0x80
XD = 1 << 63
SIZES = (1, 2, 4, 8)
READ = {size: Access(AccessKind.READ, size=size) for size in SIZES}
WRITE = {size: Access(AccessKind.WRITE, size=size) for size in SIZES}
IMPLICIT = Access(AccessKind.READ, size=8, implicit=True)

Tables = Any
"""conftest.Tables: test modules do not import one another."""


class Watch:
    """Asks, and sees that not a byte of memory is other than it was."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def __call__(self, va: int, access: Any = "read", **cpu: Any) -> Observation:
        tables = self.tables
        before = tables.memory.buffer.copy()
        seen = tables.engine.probe(tables.cpu.replace(**cpu), va, access)
        assert np.array_equal(tables.memory.buffer, before), "everything is put back"
        assert isinstance(seen, Observation)
        return seen


@pytest.fixture
def ask(tables: Tables) -> Watch:
    return Watch(tables)


def chain(tables: Tables, leaf: int, bits: int = A) -> dict[int, int]:
    """The entries above a leaf, and the leaf, with the bits that a first access sets."""
    above = (tables.PML4 + 8 * tables.SLOT, tables.PDPT, tables.PD)
    return dict.fromkeys(above, A) | {leaf: bits}


# Data.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", [3, 17])
def test_a_read_of_each_size_in_each_region(
    tables: Tables, ask: Watch, size: int, number: int
) -> None:
    frame = tables.frame(number)
    leaf = tables.leaf(1, frame | P)
    tables.memory.write(frame + 0x10, bytes(range(0x81, 0x89)))
    seen = ask(tables.page(1) + 0x10, READ[size])
    assert seen == Observation(
        Outcome.MAPPED,
        pa=frame + 0x10,
        value=int.from_bytes(bytes(range(0x81, 0x81 + size)), "little"),
        changed=chain(tables, leaf),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", [3, 17])
def test_a_write_of_each_size_is_undone(tables: Tables, ask: Watch, size: int, number: int) -> None:
    frame = tables.frame(number)
    leaf = tables.leaf(1, frame | P | W)
    tables.memory.write(frame, b"\x5a" * 0x1000)
    assert ask(tables.page(1) + 0xFF8, WRITE[size]) == Observation(
        Outcome.MAPPED, pa=frame + 0xFF8, changed=chain(tables, leaf, A | D)
    )


def test_what_is_accessed_already_does_not_change(tables: Tables, ask: Watch) -> None:
    for at in (tables.PML4 + 8 * tables.SLOT, tables.PDPT, tables.PD):
        tables.memory.write_u64(at, tables.memory.read_u64(at) | A)
    leaf = tables.leaf(1, tables.frame(1) | P | W | A)
    assert ask(tables.page(1)).changed == {}
    assert ask(tables.page(1), "write").changed == {leaf: D}


@pytest.mark.parametrize(
    ("entry", "access", "cpl", "error_code"),
    [
        (0, "read", 0, 0),
        (0, "write", 0, 2),
        (0, "read", 3, 4),
        (0, "write", 3, 6),
        (0, "fetch", 0, 0x10),
        (P, "write", 0, 3),
        (P, "read", 3, 5),
        (P | U, "write", 3, 7),
        (P | 1 << 45, "read", 0, 9),
        (P | XD, "fetch", 0, 0x11),
        (P | U | XD, "fetch", 3, 0x15),
    ],
)
def test_page_faults(
    tables: Tables, ask: Watch, entry: int, access: str, cpl: int, error_code: int
) -> None:
    tables.leaf(1, entry and entry | tables.frame(1))
    seen = ask(tables.page(1) + 0x123, access, cpl=cpl)
    assert seen.outcome is Outcome.PAGE_FAULT
    assert (seen.error_code, seen.cr2) == (error_code, tables.page(1) + 0x123)
    assert (seen.pa, seen.value) == (None, None)


def test_nothing_of_a_fault_is_left_for_the_next_probe(tables: Tables, ask: Watch) -> None:
    tables.leaf(1, tables.frame(1) | P | W | U)
    expected = ask(tables.page(1))
    for _ in range(5):
        assert ask(tables.page(2), "write").error_code == 2
        assert ask(tables.page(1)) == expected


@pytest.mark.parametrize("kind", ["read", "write", "fetch"])
def test_non_canonical_addresses(tables: Tables, ask: Watch, kind: str) -> None:
    for va in (1 << 47, (1 << 64) - (1 << 47) - 1, 1 << 63, 0x8000_0000_0000 | tables.page(1)):
        seen = ask(va, kind)
        assert seen.outcome is Outcome.GENERAL_PROTECTION
        assert (seen.error_code, seen.cr2, seen.changed) == (0, None, {})


# Two pages.


def test_a_write_over_a_page_boundary_is_undone_in_both(tables: Tables, ask: Watch) -> None:
    first = tables.leaf(1, tables.frame(1) | P | W)
    second = tables.leaf(2, tables.frame(20) | P | W)
    for number in (1, 20):
        tables.memory.write(tables.frame(number), b"\x77" * 0x1000)
    seen = ask(tables.page(2) - 3, WRITE[8])
    assert seen.pa == tables.frame(1) + 0xFFD
    assert seen.changed == chain(tables, first, A | D) | {second: A | D}


def test_a_read_over_a_page_boundary(tables: Tables, ask: Watch) -> None:
    tables.leaf(1, tables.frame(17) | P)
    tables.leaf(2, tables.frame(1) | P)
    tables.memory.write(tables.frame(17) + 0xFFE, b"\x01\x02")
    tables.memory.write(tables.frame(1), b"\x03\x04")
    assert ask(tables.page(2) - 2, READ[4]).value == 0x0403_0201


WIDE = [("read", 6), ("read", 10), ("read", 16), ("write", 10), ("write", 16), ("write", 28)]


@pytest.mark.parametrize(("kind", "size"), WIDE)
@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("cpl", [0, 3])
def test_a_wide_access_within_a_page(
    tables: Tables, ask: Watch, kind: str, size: int, stack: bool, cpl: int
) -> None:
    leaf = tables.leaf(1, tables.frame(1) | P | W | U)
    data = bytes(range(1, 1 + size))
    tables.memory.write(tables.frame(1) + 0x101, data)
    access = Access(AccessKind(kind), size=size, stack=stack)
    # x87 and SSE work whatever CR0.TS, CR0.EM and CR4.OSFXSR are: paging is what is asked about.
    seen = ask(tables.page(1) + 0x101, access, cpl=cpl, cr0=0x8000_003F)
    expected = int.from_bytes(data, "little") if kind == "read" and size != 6 else None
    assert seen == Observation(
        Outcome.MAPPED,
        pa=tables.frame(1) + 0x101,
        value=expected,
        changed=chain(tables, leaf, A | D if kind == "write" else A),
    )


@pytest.mark.parametrize(
    ("kind", "size", "before"),
    [(kind, size, before) for kind, size in WIDE for before in range(1, size)],
)
def test_a_wide_access_over_a_page_boundary(
    tables: Tables, ask: Watch, kind: str, size: int, before: int
) -> None:
    access = Access(AccessKind(kind), size=size)
    bits = A | D if kind == "write" else A
    first = tables.leaf(1, tables.frame(1) | P | W)
    second = tables.leaf(2, tables.frame(20) | P | W)
    for number in (1, 20):
        tables.memory.write(tables.frame(number), b"\x77" * 0x1000)
    va = tables.page(2) - before
    seen = ask(va, access)
    assert (seen.outcome, seen.pa) == (Outcome.MAPPED, tables.frame(1) + 0x1000 - before)
    assert seen.changed == chain(tables, first, bits) | {second: bits}
    tables.leaf(2, 0)
    seen = ask(va, access)
    assert (seen.outcome, seen.cr2) == (Outcome.PAGE_FAULT, tables.page(2))
    tables.leaf(1, 0)
    assert ask(va, access).cr2 == va


@pytest.mark.parametrize(
    ("size", "before", "stored"),
    [
        *((8, before, 0) for before in range(1, 8)),
        (16, 7, 0),
        *((16, before, 8) for before in range(8, 16)),
        (10, 8, 8),
        (10, 9, 8),
        (28, 27, 24),
        (28, 3, 0),
    ],
)
def test_a_wide_write_that_faults_leaves_its_first_parts(
    tables: Tables, ask: Watch, size: int, before: int, stored: int
) -> None:
    """SPLIT says that nothing is stored; Unicorn makes wide writes in parts."""
    tables.leaf(1, tables.frame(1) | P | W)
    tables.memory.write(tables.frame(1), b"\x77" * 0x1000)
    access = Access(AccessKind.WRITE, size=size)
    assert ask(tables.page(2) - before, access).stored == stored
    tables.leaf(2, tables.frame(20) | P | W)
    assert ask(tables.page(2) - before, access).stored == 0


def test_a_wide_write_does_not_overwrite_its_own_walk(tables: Tables, ask: Watch) -> None:
    """The lower page is the page table, whose last word translates the upper page."""
    base = tables.page(0x1FE)
    tables.leaf(0x1FE, tables.PT | P | W)
    tables.leaf(0x1FF, tables.frame(20) | P | W)
    seen = ask(base + 0xFF8, Access(AccessKind.WRITE, size=16))
    assert (seen.outcome, seen.reason) == (
        Outcome.UNSUPPORTED,
        "Unicorn makes a write of more than 8 bytes in parts, and the lower page's part would "
        "overwrite an entry that translates the upper page",
    )
    seen = ask(base + 0xFF9, WRITE[8])
    assert seen.changed == chain(tables, tables.PT + 8 * 0x1FE, A | D) | {
        tables.PT + 8 * 0x1FF: A | D
    }


@pytest.mark.parametrize("code", ["c5fc1006", "62f17c481006", "660f38f806"])
def test_this_engine_has_no_avx_and_no_movdir64b(code: str) -> None:
    """That is why a probe of 32 or 64 bytes is refused."""
    uc = Uc(UC_ARCH_X86, UC_MODE_64, x86_const.UC_CPU_X86_ICELAKE_SERVER)
    uc.mem_map(0, 0x4000)
    uc.mem_write(0, bytes.fromhex(code))
    with pytest.raises(UcError, match="UC_ERR_INSN_INVALID"):
        uc.emu_start(0, 8)


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_the_second_page_s_fault_names_its_first_byte(
    tables: Tables, ask: Watch, kind: str, size: int
) -> None:
    tables.leaf(1, tables.frame(1) | P | W)
    seen = ask(tables.page(2) - 1, Access(AccessKind(kind), size=size))
    assert seen.outcome is Outcome.PAGE_FAULT
    assert seen.cr2 == tables.page(2)


def test_the_first_page_s_fault_comes_first(tables: Tables, ask: Watch) -> None:
    tables.leaf(2, tables.frame(1) | P | W)
    assert ask(tables.page(2) - 1, WRITE[8]).cr2 == tables.page(2) - 1
    tables.leaf(2, 0)
    assert ask(tables.page(2) - 1, WRITE[8]).cr2 == tables.page(2) - 1


def test_the_last_page_and_the_first(tables: Tables, ask: Watch) -> None:
    seen = ask((1 << 64) - 1, READ[2])
    assert seen.outcome is Outcome.PAGE_FAULT
    assert seen.cr2 == (1 << 64) - 1


# Memory that is not there.


@pytest.mark.parametrize("kind", ["read", "write", "fetch"])
def test_a_frame_outside_ram_has_its_address(tables: Tables, ask: Watch, kind: str) -> None:
    leaf = tables.leaf(1, tables.HOLE | P | W)
    seen = ask(tables.page(1) + 0x123, kind)
    assert (seen.outcome, seen.pa) == (Outcome.NO_MEMORY, tables.HOLE + 0x123)
    assert seen.changed == chain(tables, leaf, A | D if kind == "write" else A)


@pytest.mark.parametrize("kind", ["read", "write", "fetch"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_table_outside_ram_has_the_entry_s_address(
    tables: Tables, ask: Watch, kind: str, level: int
) -> None:
    above = {1: tables.PD, 2: tables.PDPT, 3: tables.PML4 + 8 * tables.SLOT}[level]
    tables.memory.write_u64(above, tables.HOLE | P | W | U)
    va = tables.page(7)
    seen = ask(va, kind)
    index = va >> 12 + 9 * (level - 1) & 511
    assert (seen.outcome, seen.pa) == (Outcome.NO_MEMORY, tables.HOLE + 8 * index)


def test_rights_come_before_memory_that_is_not_there(tables: Tables, ask: Watch) -> None:
    tables.leaf(1, tables.HOLE | P)
    assert ask(tables.page(1), "write").error_code == 3
    assert ask(tables.page(1), cpl=3).error_code == 5


def test_a_second_page_outside_ram(tables: Tables, ask: Watch) -> None:
    tables.leaf(1, tables.frame(1) | P | W)
    tables.leaf(2, tables.HOLE | P | W)
    for kind in ("read", "write"):
        seen = ask(tables.page(2) - 1, Access(AccessKind(kind), size=8))
        assert (seen.outcome, seen.pa) == (Outcome.NO_MEMORY, tables.HOLE)


@pytest.mark.parametrize("size", [8, 16])
def test_a_page_and_a_table_in_one_frame_outside_ram(tables: Tables, ask: Watch, size: int) -> None:
    """Found by the random campaign: the upper page's table lies where the lower page does."""
    tables.leaf(0x1FF, tables.HOLE | P | W)
    tables.memory.write_u64(tables.PD + 8, tables.HOLE | P | W)
    seen = ask(tables.page(0x200) - 8 + (size == 8), Access(AccessKind.READ, size=size))
    assert (seen.outcome, seen.pa) == (Outcome.NO_MEMORY, tables.HOLE)


def test_a_root_outside_ram_is_unsupported_with_the_reason(tables: Tables, ask: Watch) -> None:
    seen = ask(tables.page(1), cr3=tables.HOLE)
    assert seen.outcome is Outcome.UNSUPPORTED
    assert seen.reason == ("the root table at 0x40000000 must be in RAM for the probe's own code")


# Fetches.


def test_a_fetch_sets_a_alone(tables: Tables, ask: Watch) -> None:
    leaf = tables.leaf(1, tables.frame(1) | P | W | U)
    assert ask(tables.page(1) + 5, "fetch") == Observation(
        Outcome.MAPPED, pa=tables.frame(1) + 5, changed=chain(tables, leaf)
    )


@pytest.mark.parametrize("after", ["nothing", "supervisor", "hole", "no-execute"])
@pytest.mark.parametrize("code", ["90", "f4", "48", "48b8", "0f", "eb", "cc", "0f0b", "00"])
def test_a_fetch_of_the_last_byte_does_not_need_the_next_page(
    tables: Tables, ask: Watch, code: str, after: str
) -> None:
    leaf = tables.leaf(1, tables.frame(1) | P | U)
    tables.leaf(
        2,
        {
            "nothing": 0,
            "supervisor": tables.frame(2) | P,
            "hole": tables.HOLE | P | U,
            "no-execute": tables.frame(2) | P | U | XD,
        }[after],
    )
    tables.memory.write(tables.frame(1) + 0xFFF, bytes.fromhex(code)[:1])
    seen = ask(tables.page(1) + 0xFFF, "fetch", cpl=3)
    assert seen == Observation(
        Outcome.MAPPED, pa=tables.frame(1) + 0xFFF, changed=chain(tables, leaf)
    )


@pytest.mark.parametrize("first", range(256))
def test_a_fetch_of_any_byte_is_mapped(tables: Tables, first: int) -> None:
    tables.leaf(1, tables.frame(1) | P | U)
    rng = np.random.default_rng(first)
    code = bytes([first]) + rng.bytes(15)
    tables.memory.write(tables.frame(1), code)
    for cpl in (0, 3):
        seen = tables.engine.probe(tables.cpu.replace(cpl=cpl), tables.page(1), "fetch")
        assert (seen.outcome, seen.pa) == (Outcome.MAPPED, tables.frame(1))
    assert tables.memory.read(tables.frame(1), 16) == code


# Through SS, and by the CPU itself.


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("size", SIZES)
def test_an_access_through_ss(tables: Tables, ask: Watch, kind: str, size: int) -> None:
    tables.leaf(1, tables.frame(1) | P | W)
    seen = ask(tables.page(1), Access(AccessKind(kind), size=size, stack=True))
    assert (seen.outcome, seen.pa) == (Outcome.MAPPED, tables.frame(1))


def test_an_implicit_read_leaves_the_descriptor_alone(tables: Tables, ask: Watch) -> None:
    """Found by the random campaign: loading a segment marks it, here in its own walk."""
    leaf = tables.leaf(5, tables.PT | P | W | 9 << 52)  # one byte on, a segment to be marked
    seen = ask(tables.page(5) + 5 * 8 + 1, IMPLICIT)
    assert (seen.outcome, seen.pa) == (Outcome.MAPPED, leaf + 1)
    assert seen.changed == chain(tables, leaf)


def test_a_byte_stored_into_its_own_walk_is_told_as_mapped(tables: Tables, ask: Watch) -> None:
    """Found by the random campaign: what was stored ended the translation that tells the frame."""
    leaf = tables.leaf(5, tables.PT | P)
    for byte in range(8):
        seen = ask(tables.page(5) + 5 * 8 + byte, WRITE[1], cr0=0x8000_0031)
        assert (seen.outcome, seen.pa) == (Outcome.MAPPED, leaf + byte)
        assert seen.changed == chain(tables, leaf, A | D)


@pytest.mark.parametrize("descriptor", [0, 0x0000_9200_0000_0000, (1 << 64) - 1, 0x00CF_F300])
@pytest.mark.parametrize("cpl", [0, 3])
def test_an_implicit_read_is_a_supervisor_s(
    tables: Tables, ask: Watch, descriptor: int, cpl: int
) -> None:
    leaf = tables.leaf(1, tables.frame(1) | P)
    tables.memory.write_u64(tables.frame(1) + 8, descriptor)
    seen = ask(tables.page(1) + 8, IMPLICIT, cpl=cpl)
    assert (seen.outcome, seen.pa) == (Outcome.MAPPED, tables.frame(1) + 8)
    assert seen.changed == chain(tables, leaf)
    tables.leaf(1, 0)
    seen = ask(tables.page(1) + 8, IMPLICIT, cpl=cpl)
    assert (seen.outcome, seen.error_code) == (Outcome.PAGE_FAULT, 0)
    assert seen.cr2 == tables.page(1) + 8


def test_smap_forbids_an_implicit_read_whatever_ac(tables: Tables, ask: Watch) -> None:
    tables.leaf(1, tables.frame(1) | P | U)
    cr4 = int(CR4.PAE | CR4.SMAP)
    seen = ask(tables.page(1), READ[8], cr4=cr4, rflags=int(RFLAGS.AC))
    assert seen.outcome is Outcome.MAPPED
    for rflags in (0, int(RFLAGS.AC)):
        seen = ask(tables.page(1), IMPLICIT, cr4=cr4, rflags=rflags, cpl=3)
        assert (seen.outcome, seen.error_code) == (Outcome.PAGE_FAULT, 1)


# Into what the walk itself uses.


@pytest.mark.parametrize("size", SIZES)
def test_a_write_into_the_entry_that_translates_it(tables: Tables, ask: Watch, size: int) -> None:
    """The page shows its own page table (SELF): A and D are set, then the store lands on them."""
    leaf = tables.leaf(1, tables.PT | P | W)
    seen = ask(tables.page(1) + 8, WRITE[size])
    assert (seen.outcome, seen.pa) == (Outcome.MAPPED, leaf)
    assert seen.changed == chain(tables, leaf, A | D)


@pytest.mark.parametrize("size", [8, 16, 28])
def test_a_write_into_the_root_s_every_entry(tables: Tables, ask: Watch, size: int) -> None:
    """The borrowed slot is put back, whichever entries the write hits."""
    tables.leaf(1, tables.PML4 | P | W)
    for index in range(512):
        seen = ask(tables.page(1) + 8 * index, Access(AccessKind.WRITE, size=size))
        if 8 * index + size <= 0x1000:
            assert seen.pa == tables.PML4 + 8 * index
        value = ask(tables.page(1) + 8 * index, READ[8]).value
        assert value is not None
        assert value & ~A == tables.memory.read_u64(tables.PML4 + 8 * index) & ~A


def test_recursive_addresses_of_every_depth(tables: Tables, ask: Watch) -> None:
    slot = 0o777
    entry = tables.PML4 + 8 * slot
    tables.memory.write_u64(entry, tables.PML4 | P | W)
    top = 0xFFFF << 48
    recursive = top | slot << 39 | slot << 30 | slot << 21 | slot << 12
    seen = ask(recursive + 8 * slot, READ[8])
    assert seen.changed == {entry: A}
    assert seen.value == tables.PML4 | P | W | A, "set by the walk, before the read"
    seen = ask(recursive + 8 * slot, WRITE[8])
    assert seen.changed == {entry: A | D}
    assert ask(top | slot << 39 | slot << 30 | slot << 21 | tables.SLOT << 12).pa == tables.PDPT


def test_walks_through_every_slot_can_be_probed(tables: Tables, ask: Watch) -> None:
    """The probe's own code moves out of the way of the slot that is asked about."""
    for slot in range(512):
        tables.memory.write_u64(tables.PML4 + 8 * slot, tables.PDPT | P | W | U)
    for slot in (0, 1, 0x100, *range(0x1D8, 0x1E8), 0x1FF):
        va = slot << 39 | (0xFFFF << 48 if slot >= 256 else 0) | 0x1000
        tables.leaf(1, tables.frame(1) | P)
        for access in ("read", "fetch", READ[8]):
            assert ask(va, access).pa == tables.frame(1)


# What cannot be asked.


@pytest.mark.parametrize(
    ("access", "reason"),
    [
        (Access(AccessKind.FETCH, size=2), "a fetch probe is one byte wide"),
        (Access(AccessKind.READ, size=3), "a probe reads 1, 2, 4, 6, 8, 10 or 16 bytes, not 3"),
        (Access(AccessKind.READ, size=64), "a probe reads 1, 2, 4, 6, 8, 10 or 16 bytes, not 64"),
        (
            Access(AccessKind.WRITE, size=32),
            "a probe writes 1, 2, 4, 8, 10, 16 or 28 bytes, not 32",
        ),
        (
            Access(AccessKind.READ, size=4, implicit=True),
            "an implicit access is probed as a descriptor read: kind read, size 8",
        ),
        (
            Access(AccessKind.WRITE, size=8, implicit=True),
            "an implicit access is probed as a descriptor read: kind read, size 8",
        ),
    ],
)
def test_accesses_that_no_probe_makes(
    tables: Tables, ask: Watch, access: Access, reason: str
) -> None:
    assert tables.engine.unsupported(tables.cpu, access) == reason
    assert ask(tables.page(1), access) == Observation(Outcome.UNSUPPORTED, reason=reason)
    column = tables.engine.probe_many(tables.cpu, [0, 1], access)
    assert [seen.reason for seen in column] == [reason, reason]


@pytest.mark.parametrize(
    "change",
    [
        {"cr4": int(CR4.PAE | CR4.PCIDE)},
        {"cr4": int(CR4.PAE | CR4.PKS)},
        {"features": CpuFeatures(maxphyaddr=52)},
        {"features": CpuFeatures(pdpe1gb=False)},
        {"rflags": int(RFLAGS.TF)},
    ],
)
def test_states_that_cannot_be_run_say_why(
    tables: Tables, ask: Watch, change: dict[str, Any]
) -> None:
    reason = tables.engine.unsupported(tables.cpu.replace(**change))
    assert reason
    for access in ("read", "write", "fetch", IMPLICIT):
        assert ask(tables.page(1), access, **change) == Observation(
            Outcome.UNSUPPORTED, reason=reason
        )
    column = tables.engine.probe_many(tables.cpu.replace(**change), [0, 1])
    assert [seen.reason for seen in column] == [reason, reason]
    assert tables.engine.unsupported(tables.cpu) is None


def test_a_word_that_is_no_access(tables: Tables) -> None:
    with pytest.raises(InputError):
        tables.engine.probe(tables.cpu, 0, "jump")


# Other modes.


def test_five_levels(tables: Tables, ask: Watch) -> None:
    root = tables.LOW + 0x8000
    tables.memory.write_u64(root + 8 * 300, tables.PML4 | P | W | U)
    tables.leaf(1, tables.frame(1) | P | W)
    cr4 = int(CR4.PAE | CR4.LA57)
    va = 0xFE00 << 48 | 300 << 48 | tables.page(1)
    va &= (1 << 64) - 1
    assert ask(va, cr3=root, cr4=cr4).pa == tables.frame(1)
    assert ask(va, WRITE[8], cr3=root, cr4=cr4).changed[root + 8 * 300] == A
    assert ask(1 << 56, cr3=root, cr4=cr4).outcome is Outcome.GENERAL_PROTECTION
    assert ask(1 << 47, cr3=root, cr4=cr4).outcome is Outcome.PAGE_FAULT


def test_without_nxe_bit_63_is_reserved(tables: Tables, ask: Watch) -> None:
    tables.leaf(1, tables.frame(1) | P | XD)
    efer = int(EFER.LME | EFER.LMA)
    assert ask(tables.page(1), efer=efer).error_code == 9
    assert ask(tables.page(1)).outcome is Outcome.MAPPED


def test_protection_keys(tables: Tables, ask: Watch) -> None:
    leaf = tables.leaf(1, tables.frame(1) | P | W | U | 5 << 59)
    cr4 = int(CR4.PAE | CR4.PKE)
    denied = 1 << 10
    seen = ask(tables.page(1), cr4=cr4, pkru=denied, cpl=3)
    assert (seen.outcome, seen.error_code) == (Outcome.PAGE_FAULT, 0x25)
    assert ask(tables.page(1), "fetch", cr4=cr4, pkru=denied, cpl=3).changed[leaf] == A
    assert ask(tables.page(1), cr4=cr4, pkru=denied, cpl=0).error_code == 0x21
    others = ~denied & ~(denied << 1) & 0xFFFF_FFFF
    assert ask(tables.page(1), cr4=cr4, pkru=others, cpl=3).outcome is Outcome.MAPPED
    # Key 0, of the probe's own pages, denied to ring 3: fetching is not.
    seen = ask(tables.page(1), cr4=cr4, pkru=3, cpl=3)
    assert seen.outcome is Outcome.MAPPED
