"""The hooks of a batch, called as the CPU calls them: Python and numba must do the same."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.engine.unicorn import hooks

FIRST = 0x1_0000
U64 = NDArray[np.uint64]
CONTEXT_WORDS = 64


class Calls:
    """An array as a batch makes it, and the callbacks over it."""

    def __init__(self, kind: str) -> None:
        count = hooks.HEADER + 0x400 + hooks.BATCH * len(hooks.COLUMNS)
        self.s: U64 = np.zeros(count, np.uint64)
        self.failures: list[BaseException] = []
        self.s[hooks.SELF] = self.s.ctypes.data
        self.s[hooks.FIRST] = FIRST
        for number, column in enumerate(hooks.COLUMNS):
            at = hooks.HEADER + 0x400 + number * hooks.BATCH
            self.s[column] = at
            self.s[at : at + hooks.BATCH] = hooks.NOTHING
        if kind == "numba":
            found = hooks.compiled()
            assert found is not None
            self.found = found
        else:
            self.found = hooks.interpreted(self.s, self.failures)

    def call(self, name: str, *arguments: int, data: int | None = None) -> int:
        prototypes: dict[str, Any] = {
            "fault": hooks._INTERRUPT,
            "hole_read": hooks._HOLE_READ,
            "hole_write": hooks._HOLE_WRITE,
        }
        prototype = prototypes.get(name, hooks._MEMORY)
        function = prototype(hooks.address(self.found[name]))
        return int(function(None, *arguments, data or self.s.ctypes.data) or 0)

    def column(self, name: int, row: int) -> int:
        return int(self.s[int(self.s[name]) + row])


@pytest.fixture(params=["numba", "python"])
def calls(request: pytest.FixtureRequest) -> Calls:
    return Calls(request.param)


def test_reads_come_in_order(calls: Calls) -> None:
    for pa, value in ((0x5000, 7), (0x6008, (1 << 64) - 1), (1 << 39, 1 << 63)):
        signed = value - (1 << 64) if value >> 63 else value
        calls.call("read", 0, pa, 8, signed)
    assert [calls.column(hooks.PA, row) for row in range(4)] == [
        *(0x5000, 0x6008, 1 << 39, hooks.NOTHING)
    ]
    assert [calls.column(hooks.VALUE, row) for row in range(3)] == [7, (1 << 64) - 1, 1 << 63]
    assert calls.s[hooks.NOW] == 3


def test_a_read_too_many_writes_nowhere(calls: Calls) -> None:
    calls.s[hooks.NOW] = hooks.BATCH
    before = calls.s.copy()
    calls.call("read", 0, 0x5000, 8, 1)
    before[hooks.NOW] += np.uint64(1)
    assert np.array_equal(calls.s, before), "the batch then sees the wrong count"


def test_a_write_is_noted_and_put_back_before_the_next(calls: Calls) -> None:
    ram = np.arange(256, dtype=np.uint8)
    calls.s[hooks.REGIONS] = 2
    calls.s[hooks.REGION : hooks.REGION + 6] = (
        *(0x10_0000, 0x10_0010, 1),
        *(0x20_0000, 0x20_0100, ram.ctypes.data),
    )
    calls.call("next", 0, FIRST + 8 * 5, 8, 0)
    calls.call("write", 0, 0x20_0011, 4, 0)
    ram[0x11:0x15] = 0xFF
    assert calls.column(hooks.PA, 5) == 0x20_0011
    calls.call("next", 0, FIRST + 8 * 6, 8, 0)
    assert ram.tolist() == list(range(256))
    assert calls.s[hooks.NOW] == 6
    ram[0x11] = 0xEE
    calls.call("next", 0, FIRST + 8 * 7, 8, 0)
    assert ram[0x11] == 0xEE, "once"


def test_a_write_outside_every_region_keeps_nothing(calls: Calls) -> None:
    calls.s[hooks.REGIONS] = 0
    calls.call("next", 0, FIRST, 8, 0)
    calls.call("write", 0, 0x20_0000, 8, 0)
    assert calls.column(hooks.PA, 0) == 0x20_0000
    assert calls.s[hooks.LENT_SIZE] == 0


def test_the_first_hole_of_a_probe_is_kept(calls: Calls) -> None:
    hole = np.array([0x4000_0000, calls.s.ctypes.data], np.uint64)
    calls.s[hooks.NOW] = 3
    for offset in (0x18, 0x20):
        assert calls.call("hole_read", offset, 8, data=hole.ctypes.data) == 0
    assert calls.column(hooks.HOLE, 3) == 0x4000_0018
    calls.call("hole_write", 0x18, 8, 1, data=hole.ctypes.data)
    assert calls.column(hooks.HOLE, 4) == hooks.NOTHING


@pytest.mark.parametrize(("now", "lost"), [(2, 0), (1, 1), (3, 1)])
def test_a_fault_knows_its_row_from_rdi(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, now: int, lost: int
) -> None:
    """With a Unicorn that was never started, so that saving gives back what was restored."""
    from harness.cpu import CpuState
    from harness.engine.unicorn.core import Core, Layout, Scratch
    from harness.memory import PhysicalMemory

    memory = PhysicalMemory(0x1000)
    layout = Layout.beside(memory)
    core = Core(memory, layout, Scratch(layout))
    core.state[:] = core.template(CpuState())
    at, s = core.at, calls.s
    core.q[at.registers // 8 + 7] = 0x7000 + 8 * 3  # RDI, behind the third address
    core.q[at.cr2 // 8] = 0xDEAD_B000
    core.d[at.error_code // 4] = 7
    core.d[at.previous // 4] = 14
    core.restore()
    s[hooks.HANDLE], s[hooks.CONTEXT] = core.handle.value, hooks.HEADER
    words = -(-at.size // 8)
    s[hooks.HEADER : hooks.HEADER + words].view(np.uint8)[: at.size] = core.state
    s[hooks.ERROR_AT], s[hooks.ERROR_SHIFT] = at.error_code // 8, at.error_code % 8 * 8
    s[hooks.PREVIOUS_AT] = at.previous // 8
    s[hooks.PREVIOUS_MASK] = 0xFFFF_FFFF << (at.previous % 8 * 8)
    s[hooks.CR2_AT], s[hooks.RIP_AT] = at.cr2 // 8, at.rip // 8
    s[hooks.NEXT_AT], s[hooks.ARRAY] = at.registers // 8 + 7, 0x7000
    s[hooks.RESUME], s[hooks.NOW] = 0x1234, now
    calls.call("fault", 14)
    assert [calls.column(name, 2) for name in (hooks.VECTOR, hooks.ERROR, hooks.CR2)] == [
        *(14, 7, 0xDEAD_B000)
    ]
    assert (s[hooks.NOW], s[hooks.LOST]) == (3, lost)
    core.save()
    assert core.q[at.rip // 8] == 0x1234
    assert core.d[at.previous // 4] == 0xFFFF_FFFF
    core.close()


def test_what_a_python_hook_raises_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls("python")
    stopped: list[Any] = []

    class Library:
        uc_emu_stop = staticmethod(stopped.append)

    def broken(*_: int) -> None:
        raise ZeroDivisionError("one")

    monkeypatch.setattr(hooks, "LIB", Library)
    monkeypatch.setattr(hooks, "on_read", broken)
    calls.call("read", 0, 0x5000, 8, 1)
    calls.call("read", 0, 0x5000, 8, 1)
    assert [str(error) for error in calls.failures] == ["one"]
    assert len(stopped) == 1


def test_numba_is_compiled_once_and_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    assert hooks.compiled() is hooks.compiled()
    fresh: Callable[[], Any] = hooks.compiled.__wrapped__
    monkeypatch.setitem(sys.modules, "numba", None)
    assert fresh() is None


def test_both_kinds_offer_the_same_callbacks() -> None:
    compiled = hooks.compiled()
    assert compiled is not None
    assert set(compiled) == set(hooks.interpreted(np.zeros(1, np.uint64), []))
    for hook in compiled.values():
        assert hooks.address(hook) == hook.address
    assert hooks.address(ctypes.CFUNCTYPE(None)(0x1234)) == 0x1234
