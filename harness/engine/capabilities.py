"""What an engine can be asked, as data: what follows from it is refused before it is tried.

An engine tells its :class:`Capabilities`; generators, coverage and checks ask these instead of
knowing the engine. :meth:`Capabilities.refuses` says in a sentence why a CPU state or a step is
beyond them::

    >>> Capabilities().refuses("Mine", CpuState(cr4=0x100_0020))
    'Mine does not implement PKS (CR4 = 0x1000020)'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from harness.cpu import CpuState
from harness.engine.steps import AccessStep, DeliverStep, ExecuteStep, Step
from harness.outcome import Access
from harness.registers import CR4

__all__ = ["Capabilities"]

_SINGLE: Final = frozenset({1, 2, 4, 8})
_CONTROLS: Final = (
    ("pcid", CR4.PCIDE, "PCID"),
    ("pks", CR4.PKS, "PKS"),
    ("pku", CR4.PKE, "PKU"),
    ("smep", CR4.SMEP, "SMEP"),
    ("smap", CR4.SMAP, "SMAP"),
    ("lass", CR4.LASS, "LASS"),
    ("lam", CR4.LAM_SUP, "LAM"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can be asked.

    :ivar levels: the numbers of levels that it can walk: 4, 5.
    :ivar maxphyaddr: the MAXPHYADDRs that it can have, in bits.
    :ivar gib_pages: 1 GiB pages: always there, never, or as the CPU state says.
    :ivar nx: it has EFER.NXE.
    :ivar smep: it has CR4.SMEP.
    :ivar smap: it has CR4.SMAP.
    :ivar pku: it has CR4.PKE.
    :ivar pks: it has CR4.PKS.
    :ivar pcid: it has CR4.PCIDE.
    :ivar cet: it has CR4.CET.
    :ivar lass: it has CR4.LASS.
    :ivar lam: it has CR4.LAM_SUP.
    :ivar global_pages: it keeps global translations when CR3 is loaded.
    :ivar vendor: whose manual it follows: ``intel``, ``amd``, or ``any``.
    :ivar reads: the widths of its reads, in bytes.
    :ivar writes: the widths of its writes, in bytes.
    :ivar fetches: the widths of its fetches, in bytes.
    :ivar implicit_reads: the widths of its implicit supervisor reads.
    :ivar implicit_writes: the widths of its implicit supervisor writes.
    :ivar stack: it can make an access through SS.
    :ivar sequences: it can play several steps in order.
    :ivar instructions: it can execute an instruction that is named.
    :ivar deliveries: who delivers exceptions in a sequence: the CPU, this package's software, or
        nobody.
    :ivar runs: it can run code.
    :ivar events: it sees the exceptions of a run.
    :ivar steps_code: it can run code instruction by instruction.
    """

    levels: frozenset[int] = frozenset({4, 5})
    maxphyaddr: frozenset[int] = frozenset({40})
    gib_pages: Literal["always", "never", "either"] = "always"
    nx: bool = True
    smep: bool = True
    smap: bool = True
    pku: bool = True
    pks: bool = False
    pcid: bool = False
    cet: bool = False
    lass: bool = False
    lam: bool = False
    global_pages: bool = True
    vendor: str = "intel"
    reads: frozenset[int] = _SINGLE
    writes: frozenset[int] = _SINGLE
    fetches: frozenset[int] = frozenset({1})
    implicit_reads: frozenset[int] = frozenset()
    implicit_writes: frozenset[int] = frozenset()
    stack: bool = False
    sequences: bool = True
    instructions: bool = False
    deliveries: Literal["cpu", "software", "none"] = "none"
    runs: bool = False
    events: bool = False
    steps_code: bool = False

    def refuses(self, who: str, cpu: CpuState, steps: Iterable[Step] = ()) -> str | None:
        """Say why steps cannot be played in a CPU state, or None when they can.

        :param who: what the sentence calls the engine.
        """
        reason = self.refuses_state(who, cpu)
        if reason is not None:
            return reason
        asked = tuple(steps)
        if len(asked) > 1 and not self.sequences:
            return f"{who} answers one access from pristine state, not {len(asked)} steps"
        for step in asked:
            match step:
                case AccessStep(access=access):
                    reason = self.refuses_access(access)
                case ExecuteStep() if not self.instructions:
                    reason = f"{who} executes no instruction that is named"
                case DeliverStep() if self.deliveries == "none":
                    reason = f"{who} delivers no exceptions"
            if reason is not None:
                return reason
        return None

    def refuses_state(self, who: str, cpu: CpuState) -> str | None:
        """Say why no CPU of this engine can be in a state, or None when one can."""
        for name, bit, word in _CONTROLS:
            if cpu.cr4 & bit and not getattr(self, name):
                return f"{who} does not implement {word} (CR4 = {cpu.cr4:#x})"
        if cpu.nxe and not self.nx:
            return f"{who} does not implement NX (EFER = {cpu.efer:#x})"
        if self.vendor not in ("any", cpu.features.vendor):
            return f"{who} follows {self.vendor}, not {cpu.features.vendor} (bit 8 of a PML4E)"
        if cpu.cr3 >> 61 and not self.lam:
            return f"{who} does not implement LAM (CR3 = {cpu.cr3:#x})"
        if cpu.levels not in self.levels:
            return f"{who} walks {_listed(self.levels)} levels, not {cpu.levels}"
        if cpu.maxphyaddr not in self.maxphyaddr:
            return f"{who}'s MAXPHYADDR is {_listed(self.maxphyaddr)}, not {cpu.maxphyaddr}"
        if not cpu.features.pdpe1gb and self.gib_pages == "always":
            return f"{who} always has 1 GiB pages; a CPU without them cannot be run"
        if cpu.features.pdpe1gb and self.gib_pages == "never":
            return f"{who} never has 1 GiB pages; a CPU with them cannot be run"
        return None

    def refuses_access(self, access: Access) -> str | None:
        """Say why no probe makes such an access, or None when one does."""
        if access.implicit:
            widths = self.implicit_writes if access.is_write else self.implicit_reads
            if access.size in widths and not access.stack:
                return None
            if self.implicit_reads == {8} and not self.implicit_writes:
                return "an implicit access is probed as a descriptor read: kind read, size 8"
            return f"no implicit {access.kind} of {access.size} bytes can be probed"
        if access.stack and not self.stack:
            return "no access through SS can be probed"
        if access.is_fetch:
            if access.size in self.fetches:
                return None
            if self.fetches == {1}:
                return "a fetch probe is one byte wide"
            return f"a probe fetches {_listed(self.fetches)} bytes, not {access.size}"
        widths = self.writes if access.is_write else self.reads
        if access.size in widths:
            return None
        return f"a probe {access.kind}s {_listed(widths)} bytes, not {access.size}"

    def to_json(self) -> dict[str, Any]:
        """Return them as one JSON object: sets as sorted lists."""
        return {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in dataclasses.asdict(self).items()
        }


def _listed(numbers: Iterable[int]) -> str:
    """Name numbers as a sentence does: ``1, 2 or 4``."""
    *most, last = (str(number) for number in sorted(numbers)) if numbers else ("no",)
    return f"{', '.join(most)} or {last}" if most else last
