"""The running CPU is where it is said to be, and a wrong place is not taken for it."""

from __future__ import annotations

import builtins
import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
from unicorn import x86_const as x86

from harness.engine.unicorn import live
from harness.engine.unicorn.core import Core, Layout, Scratch
from harness.engine.unicorn.live import live_state
from harness.memory import PhysicalMemory


@pytest.fixture
def core() -> Iterator[Core]:
    memory = PhysicalMemory(0x20_0000)
    layout = Layout.beside(memory)
    made = Core(memory, layout, Scratch(layout))
    yield made
    made.close()


def test_a_write_there_is_a_write_to_the_register(core: Core) -> None:
    state = live_state(core)
    assert state is not None
    rax = ctypes.c_uint64.from_address(state + core.at.registers)
    rip = ctypes.c_uint64.from_address(state + core.at.rip)

    rax.value, rip.value = 0x1234, 0x5678

    assert core.uc.reg_read(x86.UC_X86_REG_RAX) == 0x1234
    assert core.uc.reg_read(x86.UC_X86_REG_RIP) == 0x5678


def test_it_leaves_the_cpu_as_it_was_created(core: Core) -> None:
    core.power_on()
    core.save()
    before = bytes(core.state)

    live_state(core)

    core.save()
    assert bytes(core.state) == before


def test_a_copy_of_the_registers_is_not_taken_for_the_cpu(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = live._is_live
    tried = []

    def never(*arguments: Any) -> bool:
        tried.append(real(*arguments))
        return False

    monkeypatch.setattr(live, "_is_live", never)

    assert live_state(core) is None
    assert True in tried


def test_without_proc_it_is_not_found(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("planted")

    monkeypatch.setattr(builtins, "open", refuse)

    assert live_state(core) is None


def test_copies_that_lie_about_do_not_hide_it() -> None:
    """What an earlier search has read is still in memory, and looks the same."""
    memory = PhysicalMemory(0x20_0000)
    layout = Layout.beside(memory)
    cores = [Core(memory, layout, Scratch(layout)) for _ in range(20)]
    try:
        assert all(live_state(core) is not None for core in cores)
    finally:
        for core in cores:
            core.close()
