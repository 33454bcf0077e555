"""The CPU under the engine: where its frames lie, what it holds, what it cannot."""

import numpy as np
import pytest

from harness.cpu import CR4, CpuFeatures, CpuState
from harness.engine import open_engine
from harness.engine.unicorn.capabilities import unsupported_control, unsupported_state
from harness.engine.unicorn.core import (
    SCRATCH_SIZE,
    Core,
    Layout,
    Scratch,
    slot_base,
)
from harness.errors import EngineError
from harness.memory import PhysicalMemory

TOP = 1 << 40


@pytest.mark.parametrize(
    ("regions", "scratch"),
    [
        ([(0, 0x1000)], TOP - SCRATCH_SIZE),
        ([(0, 0x1000), (TOP - 0x1000, 0x1000)], TOP - 2 * SCRATCH_SIZE),
        ([(0, 0x1000), (TOP - SCRATCH_SIZE, 0x1000)], TOP - 2 * SCRATCH_SIZE),
        ([(0, 0x1000), (TOP - SCRATCH_SIZE - 0x1000, 0x1000)], TOP - SCRATCH_SIZE),
    ],
)
def test_the_engine_s_frames_lie_in_the_highest_hole(
    regions: list[tuple[int, int]], scratch: int
) -> None:
    memory = PhysicalMemory(regions)
    layout = Layout.beside(memory)
    assert layout.scratch == scratch
    assert scratch in layout
    assert scratch + SCRATCH_SIZE not in layout
    covered = [*layout.holes(memory), *memory.regions, (scratch, SCRATCH_SIZE)]
    at = 0
    for base, size in sorted(covered):
        assert base == at
        at += size
    assert at == TOP


def test_ram_beyond_maxphyaddr_is_refused() -> None:
    with pytest.raises(EngineError) as caught:
        open_engine("unicorn", PhysicalMemory([(TOP, 0x1000)]))
    assert str(caught.value) == (
        "RAM must end at or below 0x10000000000 for Unicorn, whose MAXPHYADDR is 40, "
        "but a region ends at 0x10000001000"
    )


@pytest.mark.parametrize(
    ("cpu", "why"),
    [
        (CpuState(cr4=int(CR4.PAE | CR4.PCIDE)), "Unicorn does not implement PCID (CR4 = 0x20020)"),
        (CpuState(cr4=int(CR4.PAE | CR4.PKS)), "Unicorn does not implement PKS (CR4 = 0x1000020)"),
        (
            CpuState(cr4=int(CR4.PAE | CR4.LASS)),
            "Unicorn does not implement LASS (CR4 = 0x8000020)",
        ),
        (
            CpuState(features=CpuFeatures(maxphyaddr=46)),
            "Unicorn's MAXPHYADDR is 40, not 46",
        ),
        (
            CpuState(features=CpuFeatures(pdpe1gb=False)),
            "Unicorn always has 1 GiB pages; a CPU without them cannot be run",
        ),
    ],
)
def test_what_this_engine_does_not_have(cpu: CpuState, why: str) -> None:
    assert unsupported_control(cpu) == why
    assert unsupported_state(cpu) == why


def test_a_probe_cannot_single_step_and_a_run_can() -> None:
    cpu = CpuState(rflags=0x102)
    assert unsupported_state(cpu) == "a probe cannot run with RFLAGS.TF set"
    assert unsupported_control(cpu) is None
    assert unsupported_state(CpuState()) is None


def test_where_a_slot_shows_the_frames() -> None:
    four, five = CpuState(), CpuState(cr4=int(CR4.PAE | CR4.LA57))
    assert slot_base(1, four) == 1 << 39
    assert slot_base(1, five) == 1 << 48
    assert slot_base(256, four) == 0xFFFF_8000_0000_0000
    assert slot_base(256, five) == 0xFF00_0000_0000_0000
    assert slot_base(511, four.replace(cpl=3)) == 0xFFFF_FF80_0000_0000 + Scratch.USER


def test_a_template_is_pristine_whatever_ran_before() -> None:
    memory = PhysicalMemory(0x1000)
    layout = Layout.beside(memory)
    core = Core(memory, layout, Scratch(layout))
    first, other = CpuState(cr3=0, cpl=3, pkru=7), CpuState(cr4=int(CR4.PAE | CR4.SMEP))
    wanted = core.template(first)
    core.template(other)
    core.q[core.at.registers // 8] = 0x1234
    core.restore()
    core._templates.clear()
    assert core.template(first) == wanted
    assert core.template(other) != wanted
    core.state[:] = wanted
    assert core.d[core.at.hflags // 4] & 3 == 3
    assert core.d[core.at.pkru // 4] == 7
    core.close()


def test_templates_are_bounded() -> None:
    memory = PhysicalMemory(0x1000)
    layout = Layout.beside(memory)
    core = Core(memory, layout, Scratch(layout))
    for pkru in range(600):
        core.template(CpuState(pkru=pkru))
    assert len(core._templates) <= 256
    core.close()


def test_an_engine_can_be_closed_and_another_opened() -> None:
    memory = PhysicalMemory(0x20_0000)
    for _ in range(3):
        with open_engine("unicorn", memory) as engine:
            assert engine.memory is memory
            assert engine.probe(CpuState(cr3=0x1000), 0x5000).error_code == 0
            engine.probe_many(CpuState(cr3=0x1000), np.arange(4, dtype=np.uint64))


def test_bits_on_which_no_access_depends_are_left_out() -> None:
    memory = PhysicalMemory(0x20_0000)
    cpu = CpuState(cr3=0x1000, cr4=int(CR4.PAE | CR4.CET | CR4.KL | CR4.FRED), efer=0x1D01)
    with open_engine("unicorn", memory) as engine:
        assert engine.probe(cpu, 0x4000).error_code == 0
