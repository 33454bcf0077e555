"""The machine: what it maps, loads, asks and runs."""

import pytest

from harness.address import PageSize, VirtAddr
from harness.asm import assemble
from harness.cpu import CpuState
from harness.engine.run import Budget, Ending, Start
from harness.entry import PageTableFlags
from harness.errors import AddressError, AssemblyError, BootError, InputError
from harness.machine import KERNEL_BASE, TABLES_BASE, Machine, screen_of
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessKind, Outcome

READ = Access(AccessKind.READ, size=8)
MIB = 1 << 20


def agree(machine: Machine, va: int, access: Access = READ) -> int | None:
    """Ask walker and engine, see that they say the same, return the physical address."""
    predicted, observed = machine.walk(va, access), machine.probe(va, access)
    assert (observed.outcome, observed.pa) == (predicted.outcome, predicted.pa)
    assert (observed.error_code, observed.cr2) == (predicted.error_code, predicted.cr2)
    return observed.pa


@pytest.mark.parametrize("levels", [4, 5])
def test_a_new_machine_maps_its_ram_to_itself(levels: int) -> None:
    with Machine(2 * MIB, levels=levels) as machine:
        assert machine.cpu.levels == levels
        assert machine.cpu.root == TABLES_BASE
        for va in (0, 0x1000, KERNEL_BASE, 2 * MIB - 8):
            assert agree(machine, va) == va
        assert agree(machine, 2 * MIB) is None
        walk = machine.walk(0)
        assert walk.rights is not None
        assert (walk.rights.user, walk.rights.writable) == (False, True)


def test_only_what_identity_says_is_mapped() -> None:
    with Machine(4 * MIB, identity=MIB) as machine:
        assert agree(machine, MIB - 8) == MIB - 8
        assert agree(machine, MIB) is None
    with Machine(4 * MIB, identity=0) as machine:
        assert agree(machine, 0) is None


@pytest.mark.parametrize("page", list(PageSize))
def test_map_in_each_page_size(page: PageSize) -> None:
    with Machine(8 * MIB, identity=MIB) as machine:
        va = 0xFFFF_8000_4000_0000
        machine.map(VirtAddr(va), 0, int(page), "WU", page)
        walk = machine.walk(va + 0x12_3458 % int(page))
        assert walk.page_size is page
        assert walk.rights is not None
        assert (walk.rights.user, walk.rights.writable, walk.rights.executable) == (True,) * 3
        agree(machine, va + 0x458)


@pytest.mark.parametrize(
    ("letters", "bits"),
    [
        ("", PageTableFlags.PRESENT),
        ("W", PageTableFlags.PRESENT | PageTableFlags.WRITABLE),
        ("UG", PageTableFlags.PRESENT | PageTableFlags.USER_ACCESSIBLE | PageTableFlags.GLOBAL),
        ("X", PageTableFlags.PRESENT | PageTableFlags.NO_EXECUTE),
    ],
)
def test_the_letters_of_flags(letters: str, bits: PageTableFlags) -> None:
    with Machine(4 * MIB) as machine:
        machine.map(8 * MIB, 0x8000, 0x1000, letters)
        machine.map(9 * MIB, 0x8000, 0x1000, bits)
        for va in (8 * MIB, 9 * MIB):
            assert machine.walk(va).steps[-1].entry.flags == bits


def test_what_cannot_be_mapped() -> None:
    with Machine(4 * MIB) as machine:
        with pytest.raises(InputError) as caught:
            machine.map(8 * MIB, 0, 0x1000, "WQ")
        assert str(caught.value) == "flags must be letters of W, U, X and G, not 'WQ'"
        with pytest.raises(BootError):
            machine.map(0x1000, 0x5000, 0x1000)
        with pytest.raises(AddressError):
            machine.map(8 * MIB + 1, 0x5000, 0x1000)
    with Machine(4 * MIB, cpu=CpuState(cr3=0x1000)) as machine:
        with pytest.raises(InputError) as caught:
            machine.map(8 * MIB, 0, 0x1000)
        assert str(caught.value) == (
            "a machine must have made its page tables itself to map more in them"
        )


def test_a_recursive_slot() -> None:
    with Machine(4 * MIB) as machine:
        machine.map_recursive(511)
        assert agree(machine, (1 << 64) - 8) == TABLES_BASE + 8 * 511
        for slot, message in (
            (511, "recursive slot 511 must be free, but holds an entry"),
            (0, "recursive slot 0 must be free, but holds an entry"),
            (512, "a recursive slot must be 0 to 511, not 512"),
            (-1, "a recursive slot must be 0 to 511, not -1"),
        ):
            with pytest.raises(InputError) as caught:
                machine.map_recursive(slot)
            assert str(caught.value) == message


def test_load_puts_code_into_ram() -> None:
    with Machine(4 * MIB) as machine:
        assert machine.load(b"\x90\xf4") == KERNEL_BASE
        assert machine.memory.read(KERNEL_BASE, 2) == b"\x90\xf4"
        assert machine.load(b"\xf4", at=0x9000) == 0x9000
        program = assemble("hlt", base=0xA000)
        assert machine.load(program) == 0xA000
        assert machine.load(program, at=0xB000) == 0xB000
        assert machine.memory.read(0xB000, 1) == b"\xf4"
        with pytest.raises(InputError) as caught:
            machine.load(b"\x90" * 16, at=4 * MIB - 8)
        assert str(caught.value) == "0x10 bytes of code at 0x3ffff8 must lie in RAM"


def test_run_takes_text_a_program_and_an_address() -> None:
    with Machine(4 * MIB) as machine:
        ended = machine.run("lea rax, [rdi + 1]\nhlt", registers={"rdi": 41})
        assert ended.registers["rax"] == 42
        program = assemble("mov rax, 7\nhlt", base=0x9000)
        assert machine.run(program).registers["rax"] == 7
        assert machine.run(0x9000).registers["rax"] == 7
        with pytest.raises(AssemblyError):
            machine.run("no such thing")


def test_run_passes_a_start_and_a_budget_on() -> None:
    with Machine(4 * MIB) as machine:
        start = Start(rip=0, cpu=machine.cpu, registers={"rbx": 5}, stop=KERNEL_BASE + 4)
        ended = machine.run("add rbx, 1\nnop\nhlt", start=start)
        assert (ended.ending, ended.rip) == (Ending.STOP, KERNEL_BASE + 4)
        ended = machine.run("again: jmp again", budget=Budget(seconds=5, instructions=10))
        assert ended.ending is Ending.INSTRUCTIONS


def test_memory_stays_as_the_guest_left_it() -> None:
    with Machine(4 * MIB) as machine:
        machine.run("mov rax, 0x1122\nmov [0x200000], rax\nhlt")
        assert machine.memory.read_u64(0x20_0000) == 0x1122
        assert machine.probe(0x20_0000, READ).value == 0x1122
        assert machine.walk(0x20_0000).steps[-1].entry.flags & PageTableFlags.DIRTY


def test_a_memory_that_exists_and_a_state_of_its_own() -> None:
    memory = PhysicalMemory([(0, MIB), (16 * MIB, MIB)])
    with Machine(memory) as machine:
        assert machine.memory is memory
        assert agree(machine, MIB - 8) == MIB - 8
        machine.map(64 * MIB, 16 * MIB, 0x1000, "W")
        assert agree(machine, 64 * MIB) == 16 * MIB
        cpu = machine.cpu
    with Machine(memory, cpu=cpu.replace(cpl=3)) as machine:
        assert machine.probe(0, READ).outcome is Outcome.PAGE_FAULT


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(
        InputError,
        match=r"^the engine must be one of unicorn, or package.module:attribute, not 'abacus'$",
    ):
        Machine(MIB, engine="abacus")


def test_the_screen() -> None:
    with Machine(4 * MIB) as machine:
        assert machine.screen() == ("",) * 25
        machine.run(
            """
            mov rdi, 0xb8000
            mov byte ptr [rdi], 'H'
            mov byte ptr [rdi + 1], 0x1f
            mov byte ptr [rdi + 2], 'i'
            mov byte ptr [rdi + 162], 0xdb
            hlt
            """
        )
        assert machine.screen()[:3] == ("Hi", " █", "")
    assert screen_of(PhysicalMemory(0x1000)) == ()


def test_a_machines_own_tables_stay_below_its_kernel() -> None:
    message = r"tables must fit between 0x1000 and 0x70000: map less, or in bigger pages$"
    with pytest.raises(InputError, match=message):
        Machine(0x1000_0000, identity=0x1000_0000)
    with Machine(0x1000_0000) as machine:  # all of it, in 2 MiB pages
        assert machine.walk(0xFFF_FFF8).page_size is PageSize.Size2MiB
        assert machine.probe(0xFFF_FFF8).pa == 0xFFF_FFF8
    with Machine(0x3E0_0000) as machine:
        assert machine.walk(0x3DF_FFF8).page_size is PageSize.Size4KiB
