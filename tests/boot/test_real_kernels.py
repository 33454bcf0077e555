"""Kernels that gcc builds, on the machine and on the bare engine.

`run` drives the CPU without `harness.machine`, so that nothing stands between what the loader left
in memory and what the MMU makes of it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import unicorn
from unicorn import x86_const as x86

from harness.address import format_address
from harness.boot import (
    BootConfig,
    BootedState,
    BootInfo,
    Firmware,
    level_4_listing,
    load,
    parse_boot_info,
    read_kernel,
)
from harness.booted import run_booted
from harness.outcome import Outcome
from harness.walker.scalar import walk

MISSING = [tool for tool in ("gcc", "ld") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"building kernels in C needs {', '.join(MISSING)}, not on this machine"
)

SOURCES = Path(__file__).parent / "kernels"
LOW, HIGH = 0x20_0000, 0xFFFF_FFFF_8020_0000
MAPS = BootConfig(map_physical_memory=True)
Build = Callable[[str, int], Path]


@dataclass
class Ran:
    serial: str = ""
    exit_code: int | None = None
    vector: int | None = None
    cr2: int = 0
    rip: int = 0


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A function that compiles a kernel of `kernels/` for an address."""
    folder = tmp_path_factory.mktemp("kernels")

    def compiled(name: str, base: int) -> Path:
        path = folder / f"{name}-{base:x}.elf"
        if not path.exists():
            flags = (
                "-O1 -Wall -Wextra -ffreestanding -nostdlib -static -no-pie -fno-pic "
                "-fno-stack-protector -fcf-protection=none -mno-red-zone -mgeneral-regs-only "
                "-fno-optimize-sibling-calls -Wno-infinite-recursion -fno-toplevel-reorder "
                "-Wl,--build-id=none -Wl,-z,noexecstack"
            )
            model = "kernel" if base == HIGH else "small"
            subprocess.run(
                ["gcc", *flags.split(), f"-mcmodel={model}", f"-Wl,--defsym=BASE={base:#x}",
                 f"-Wl,-T,{SOURCES / 'kernel.ld'}", str(SOURCES / f"{name}.c"), "-o", str(path)],
                check=True,
            )  # fmt: skip
        return path

    return compiled


def run(state: BootedState) -> Ran:
    ran = Ran()
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for base, size, host in state.memory.region_pointers():
        cpu.mem_map_ptr(base, size, unicorn.UC_PROT_ALL, host)

    def out(_: Any, port: int, __: int, value: int, ___: Any) -> None:
        if port == 0x3F8:
            ran.serial += chr(value)
        elif port == 0xF4:
            ran.exit_code = value
            cpu.emu_stop()

    def interrupt(_: Any, vector: int, __: Any) -> None:
        ran.vector, ran.cr2 = vector, cpu.reg_read(x86.UC_X86_REG_CR2)
        ran.rip = cpu.reg_read(x86.UC_X86_REG_RIP)
        cpu.emu_stop()

    cpu.hook_add(unicorn.UC_HOOK_INSN, out, None, 1, 0, x86.UC_X86_INS_OUT)
    cpu.hook_add(unicorn.UC_HOOK_INTR, interrupt)
    cpu.reg_write(x86.UC_X86_REG_CR3, state.cpu.cr3)
    cpu.reg_write(x86.UC_X86_REG_CR4, state.cpu.cr4)
    cpu.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, state.cpu.efer))
    cpu.reg_write(x86.UC_X86_REG_CR0, state.cpu.cr0)
    cpu.reg_write(x86.UC_X86_REG_RSP, state.rsp)
    cpu.reg_write(x86.UC_X86_REG_RDI, state.rdi)
    cpu.emu_start(state.rip, 0, count=50_000_000)
    return ran


@pytest.mark.parametrize("base", [LOW, HIGH])
def test_the_lectures_first_kernel(build: Build, base: int) -> None:
    image = read_kernel(build("print_boot_info", base))
    assert [(s.first_page, s.rights) for s in image.segments] == [
        (base, "R"),
        (base + 0x1000, "RX"),
        (base + 0x2000, "RW"),
    ]
    state = load(image, MAPS)
    ran = run(state)
    assert ran.vector is None
    assert ran.exit_code == 0x10
    assert ran.serial == state.boot_info.debug() + "\n"
    assert parse_boot_info(ran.serial) == state.boot_info
    assert state.memory.read(0xB_8000, 24)[::2] == b"Hello World!"


def test_the_lectures_first_kernel_on_the_lectures_printout(
    build: Build, lecture_boot_info: BootInfo, lecture_text: str
) -> None:
    state = load(read_kernel(build("print_boot_info", LOW)), None, lecture_boot_info)
    ran = run(state)
    assert ran.exit_code == 0x10
    assert ran.serial == lecture_text + "\n"


@pytest.mark.parametrize("base", [LOW, HIGH])
def test_the_machine_runs_the_lectures_first_kernel(build: Build, base: int) -> None:
    state = load(read_kernel(build("print_boot_info", base)), MAPS)
    report = run_booted(state, success_exit_code=33)
    assert not report.failed
    assert report.serial == state.boot_info.debug() + "\n"
    assert report.screen == ("Hello World!", *[""] * 24)


@pytest.mark.parametrize("base", [LOW, HIGH])
def test_the_machine_explains_a_write_to_a_kernels_own_text(build: Build, base: int) -> None:
    state = load(read_kernel(build("write_own_text", base)))
    report = run_booted(state)
    assert report.failed
    assert report.serial == "about to write\n"
    assert report.fault is not None
    lines = report.fault.splitlines()
    entry = format_address(state.image.entry)
    assert lines[0].endswith(f"which no handler took (segment RX of {state.image.name})")
    assert lines[1] == f"page fault: a supervisor write at {entry}"
    assert lines[4].startswith("  error code  0x3 = P W: ")
    assert lines[5].startswith("  decided at  level 1, PTE ")
    assert lines[6].startswith("  rule        WP: ")
    assert lines[-1] == "  the address lies in the kernel"


def test_the_machine_explains_a_stack_overflow(build: Build) -> None:
    report = run_booted(load(read_kernel(build("overflow_stack", LOW)), MAPS))
    assert report.fault is not None
    assert report.fault.endswith("  the address lies in the guard page below the kernel stack")


@pytest.mark.parametrize("base", [LOW, HIGH])
def test_a_kernels_own_handler_works_with_the_bootloaders_gdt(build: Build, base: int) -> None:
    report = run_booted(load(read_kernel(build("handle_page_fault", base))))
    assert report.serial == (
        "page fault at 0xdeadbeef000, error code 2, where expected\ngoing on\n"
    )
    assert not report.failed
    assert report.exit.exit_code == 33


@pytest.mark.parametrize("base", [LOW, HIGH])
def test_a_write_to_its_own_text_faults(build: Build, base: int) -> None:
    state = load(read_kernel(build("write_own_text", base)))
    ran = run(state)
    assert ran.serial == "about to write\n"
    assert (ran.vector, ran.exit_code) == (14, None)
    assert ran.cr2 == state.image.entry
    refused = walk(state.memory, state.cpu, ran.cr2, "write")
    assert (refused.outcome, refused.rule, refused.error_code) == (Outcome.PAGE_FAULT, "WP", 3)


def test_the_guard_page_stops_the_stack(build: Build) -> None:
    state = load(read_kernel(build("overflow_stack", LOW)), MAPS)
    ran = run(state)
    assert ran.vector == 14
    guard = state.layout.stack_start - 0x1000
    assert guard <= ran.cr2 < guard + 0x1000


@pytest.mark.parametrize("base", [LOW, HIGH])
def test_the_lectures_loop_over_the_level_4_table(build: Build, base: int) -> None:
    state = load(read_kernel(build("level_4_entries", base)), MAPS, Firmware.pc(64 << 20))
    ran = run(state)
    slots = level_4_listing(state)
    # The CPU has set A in entries that it used after the kernel had printed them.
    printed = [line.split(": ")[0] for line in ran.serial.splitlines()[:-1]]
    assert printed == [f"L4 Entry {slot.index}" for slot in slots]
    assert ran.serial.endswith("\nFIN\n")
    assert all(slot.names for slot in slots)
