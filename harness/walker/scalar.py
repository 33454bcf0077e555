"""The software MMU, one access at a time: the readable statement of the paging rules.

:func:`walk` answers what a CPU in a given state does with one access: which entries it reads,
whether it may go on, which physical byte it reaches, and which accessed and dirty bits it leaves
behind. It has no side effects, and it needs no CPU: an engine is asked the same question
elsewhere, and a difference between the two is what this package exists to find.

A walk does not raise when the access fails, since a fault is an answer: look at ``outcome`` (or
match on ``verdict``). It raises only for an address that does not fit in 64 bits.

>>> memory = PhysicalMemory(0x10000)
>>> for table, entry in [(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x4020, 0x5003)]:
...     memory.write_u64(table, entry)
>>> cpu = CpuState(cr3=0x1000)
>>> walk(memory, cpu, 0x4123)
<Walk read of 0x4123: mapped to 0x5123 (4K)>
>>> walk(memory, cpu.replace(cpl=3), 0x4123, "write")
<Walk write of 0x4123: page-fault 0x7, rule USER_US at level 1>

Each rule of ``rules.py`` stands here once, on a line that names it; the bulk walker takes the
rights and the reserved bits from this module and restates only the walk itself.
"""

from functools import reduce
from operator import index, or_
from typing import SupportsIndex

from harness.address import Page, PageSize, PhysAddr, PhysFrame, VirtAddr
from harness.cpu import CpuState, ErrorCode
from harness.entry import ADDRESS_MASK, PageTableFlags
from harness.errors import AddressError, NoMemory
from harness.memory import PhysicalMemory
from harness.outcome import Access, AccessLike, Outcome
from harness.walker.verdict import (
    GeneralProtection,
    Mapped,
    OutsideRam,
    PageFault,
    Rights,
    StackFault,
    Step,
    Verdict,
)

__all__ = ["Walk", "denial", "error_code", "reserved_bits", "reserved_masks", "walk"]

# Plain integers: arithmetic on enum members would dominate the time of a walk.
_PRESENT = int(PageTableFlags.PRESENT)
_WRITABLE = int(PageTableFlags.WRITABLE)
_USER = int(PageTableFlags.USER_ACCESSIBLE)
_ACCESSED = int(PageTableFlags.ACCESSED)
_DIRTY = int(PageTableFlags.DIRTY)
_HUGE = int(PageTableFlags.HUGE_PAGE)
_BIT_8 = 1 << 8  # of a PML4E or PML5E on AMD; G in a leaf
_NO_EXECUTE = int(PageTableFlags.NO_EXECUTE)
_P, _W, _U, _RSVD, _I, _PK = (
    int(bit)
    for bit in (ErrorCode.P, ErrorCode.W, ErrorCode.U, ErrorCode.RSVD, ErrorCode.I, ErrorCode.PK)
)
_MAPPED, _PAGE_FAULT, _NO_MEMORY = Outcome.MAPPED, Outcome.PAGE_FAULT, Outcome.NO_MEMORY
_EVERYTHING = _PRESENT | _WRITABLE | _USER | _NO_EXECUTE
# What the error code says of the rule that decided; a right that is merely missing says P alone.
_CAUSE = {"PRESENT": 0, "PKU": _P | _PK, "PKS": _P | _PK} | dict.fromkeys(
    ("RSVD_ADDR", "RSVD_NX", "RSVD_PS", "RSVD_1G", "RSVD_2M"), _P | _RSVD
)
# What bits 63:47 (63:56 with five levels) of an address may be: all clear or all set.
_CANONICAL = {4: (0, (1 << 17) - 1), 5: (0, (1 << 8) - 1)}
_LEVELS: dict[tuple[int, int, bool, bool, bool], tuple[tuple[int, int, tuple[int, int]], ...]] = {}


class Walk:
    """One access, followed through the page tables to its verdict. Read-only.

    ``outcome``, ``rule``, ``level``, ``error_code``, ``cr2``, ``pa`` and ``page_size`` are the
    verdict on the whole access. ``steps``, ``page``, ``frame`` and ``rights`` belong to the page
    of the first byte; if the access spans two pages and the lower one was translated, ``second``
    is the walk of the upper one.

    :ivar va: the first byte's virtual address
    :ivar rule: the rule that decided; ``COMBINE`` when every level let the access through
    :ivar level: the level of the entry that decided; the leaf's for an access right. None if no
        entry was read
    :ivar pa: the physical address reached (``mapped``), or the one that is not RAM
    """

    __slots__ = (
        "_granted",
        "_raws",
        "access",
        "cpu",
        "level",
        "outcome",
        "pa",
        "rule",
        "second",
        "va",
    )

    def __init__(
        self,
        va: int,
        access: Access,
        cpu: CpuState,
        outcome: Outcome,
        rule: str,
        level: int | None,
        pa: int | None,
        raws: list[int],
        granted: int,
    ) -> None:
        self.va = va
        self.access = access
        self.cpu = cpu
        self.outcome = outcome
        self.rule = rule
        self.level = level
        self.pa = pa
        self.second: Walk | None = None
        self._raws = raws
        # 0 until a leaf is reached, since every leaf on the way had P = 1.
        self._granted = granted

    @property
    def completed(self) -> bool:
        """Tell whether every byte was translated, be there RAM behind it or not."""
        return self.rule == "COMBINE"

    @property
    def error_code(self) -> int | None:
        """Give what #PF, #GP or #SS pushes, else None."""
        if self.outcome is _PAGE_FAULT:
            return error_code(self.cpu, self.access, self.rule)
        return 0 if self.outcome in (Outcome.GENERAL_PROTECTION, Outcome.STACK_FAULT) else None

    @property
    def cr2(self) -> int | None:
        """Give the address that #PF leaves in CR2, else None."""
        if self.outcome is not _PAGE_FAULT:
            return None
        return self.va if self.second is None else self.second.va  # ERR

    @property
    def verdict(self) -> Verdict:
        """Give the verdict as a value to match on."""
        if self.outcome is _PAGE_FAULT:
            assert self.error_code is not None
            assert self.cr2 is not None
            return PageFault(self.error_code, self.cr2)
        if self.outcome is Outcome.GENERAL_PROTECTION:
            return GeneralProtection()
        if self.outcome is Outcome.STACK_FAULT:
            return StackFault()
        assert self.pa is not None
        return Mapped(self.pa) if self.outcome is _MAPPED else OutsideRam(self.pa)

    @property
    def steps(self) -> tuple[Step, ...]:
        """List the entries read, from the root down."""
        steps = []
        table = self.cpu.root
        for level, raw in zip(range(self.cpu.levels, 0, -1), self._raws, strict=False):
            steps.append(Step(level, table | self.va >> 9 * level & 0xFF8, raw))
            table = raw & ADDRESS_MASK
        return tuple(steps)

    @property
    def leaf(self) -> Step | None:
        """Give the entry that maps the page, if the walk came so far."""
        return self.steps[-1] if self._granted else None

    @property
    def page(self) -> Page | None:
        """Give the page of the first byte, if it has one; it need not allow the access."""
        leaf = self.leaf
        if leaf is None:
            return None
        return Page.containing_address(
            VirtAddr(self.va, self.cpu.levels), PageSize.of_level(leaf.level)
        )

    @property
    def frame(self) -> PhysFrame | None:
        """Give the frame that :attr:`page` is mapped to."""
        leaf = self.leaf
        if leaf is None:
            return None
        address = PhysAddr(leaf.raw & ADDRESS_MASK)
        return PhysFrame.containing_address(address, PageSize.of_level(leaf.level))

    @property
    def rights(self) -> Rights | None:
        """Give what all levels together allow on :attr:`page`."""
        if not self._granted:
            return None
        return Rights(
            user=bool(self._granted & _USER),
            writable=bool(self._granted & _WRITABLE),
            executable=bool(self._granted & _NO_EXECUTE),
            key=_key(self._raws[-1]),
        )

    @property
    def page_size(self) -> PageSize | None:
        """Tell the size of the page that ``pa`` lies in; None unless the access was translated."""
        if not self.completed:
            return None
        assert self.level is not None
        return PageSize.of_level(self.level)

    @property
    def sets(self) -> dict[int, int]:
        """Give the bits that the access must set: physical address of an entry → bits.

        Only bits that are clear now are listed. Empty when the access faults.
        """
        if not self.completed:
            return {}
        steps = self.steps
        needs: dict[int, int] = {}
        for step in steps:
            bits = _ACCESSED  # A
            if step is steps[-1] and self.access.is_write:  # D
                bits |= _DIRTY
            _add(needs, step.address, bits & ~step.raw)  # SELF: it may have been used above
        if self.second is not None:
            for address, bits in self.second.sets.items():
                _add(needs, address, bits)
        return needs

    @property
    def may_set(self) -> dict[int, int]:
        """Give the bits that the access may set although it faults, in the form of :attr:`sets`.

        The processor is free to set A on its way down, but not in the last entry that it read,
        and D nowhere. Empty when the access completes.
        """
        if self.completed:
            return {}
        steps = self.steps
        if self.second is None and self.outcome is _PAGE_FAULT:
            steps = steps[:-1]  # A_ON_FAULT: the last entry read stays as it is
        may: dict[int, int] = {}
        for step in steps:
            _add(may, step.address, _ACCESSED & ~step.raw)
        if self.second is not None:
            for address, bits in self.second.may_set.items():
                _add(may, address, bits)
        return may

    @property
    def culprits(self) -> tuple[Step, ...]:
        """List the entries whose bits brought the fault about, from the root down.

        For a right that several levels withhold, these are all of them: each must be changed
        before the access can pass. For a right that needs *every* level to be generous (a SMEP
        fault, a key), it is the leaf. Empty when nothing is wrong with any entry.
        """
        if self.second is not None and not self.completed:
            return self.second.culprits
        steps = self.steps
        if self.rule in ("COMBINE", "CANONICAL"):
            return ()
        if self.rule == "USER_US":
            return tuple(step for step in steps if not step.raw & _USER)
        if self.rule in ("USER_RW", "WP"):
            return tuple(step for step in steps if not step.raw & _WRITABLE)
        if self.rule == "NX":
            return tuple(step for step in steps if step.raw & _NO_EXECUTE)
        return steps[-1:]

    def __repr__(self) -> str:
        head = f"<Walk {self.access.kind} of {self.va:#_x}: {self.outcome}"
        if self.outcome is _MAPPED:
            assert self.page_size is not None
            return f"{head} to {self.pa:#_x} ({self.page_size.letter})>"
        if self.outcome is _NO_MEMORY:
            return f"{head} at {self.pa:#_x}>"
        where = "" if self.level is None else f" at level {self.level}"
        return f"{head} {self.error_code:#x}, rule {self.rule}{where}>"


def walk(
    memory: PhysicalMemory, cpu: CpuState, va: SupportsIndex, access: AccessLike = "read"
) -> Walk:
    """Tell what a CPU in this state does with one access.

    An access that spans two pages is judged page by page. The lower page's fault comes first,
    then the upper page's; that a translated byte is not RAM is told only if neither faults.

    :param memory: the physical memory that holds the tables
    :param cpu: the registers and features that rule the walk
    :param va: the first byte's virtual address, canonical or not
    :param access: what is done there, ``"read"``, ``"write"``, ``"fetch"`` or an ``Access``
    :raises AddressError: ``va`` does not fit in 64 bits
    """
    access = Access.of(access)
    first = index(va)
    if first >> 64:
        raise AddressError(f"a virtual address must fit in 64 bits, not {first:#_x}")
    lower = _walk_page(memory, cpu, first, access)
    if (first & 0xFFF) + access.size > 0x1000 and lower.completed:  # SPLIT
        boundary = (first | 0xFFF) + 1 & 0xFFFF_FFFF_FFFF_FFFF
        upper = lower.second = _walk_page(memory, cpu, boundary, access)
        if not upper.completed or (lower.outcome is _MAPPED and upper.outcome is _NO_MEMORY):
            lower.outcome, lower.rule, lower.level = upper.outcome, upper.rule, upper.level
            lower.pa = upper.pa
    return lower


def _walk_page(memory: PhysicalMemory, cpu: CpuState, va: int, access: Access) -> Walk:
    # The walk of those bytes of an access that lie in one page.
    levels, table = cpu.levels, cpu.root  # CR3
    if va >> 9 * levels + 11 not in _CANONICAL[levels]:  # CANONICAL
        outcome = Outcome.STACK_FAULT if access.stack else Outcome.GENERAL_PROTECTION
        return Walk(va, access, cpu, outcome, "CANONICAL", None, None, [], 0)
    read = memory.read_u64
    raws: list[int] = []
    granted = _EVERYTHING
    denied: str | None = None
    for level, shift, reserved in _levels(cpu):
        address = table | va >> shift & 0xFF8
        try:
            raw = read(address)
        except NoMemory:
            rule = "ORDER" if raws else "CR3"
            return Walk(va, access, cpu, _NO_MEMORY, rule, level, address, raws, 0)
        raws.append(raw)
        if not raw & _PRESENT:  # PRESENT: the other bits are not looked at
            denied, granted = "PRESENT", 0
            break
        huge = raw >> 7 & 1
        if raw & reserved[huge]:  # ORDER: reserved bits come before any access right
            denied, granted = _reserved_rule(cpu, level, huge, raw), 0
            break
        granted &= raw ^ _NO_EXECUTE  # COMBINE: a right holds if every level grants it
        if huge or level == 1:  # PAT: in a PTE bit 7 is not a size, a PTE is always a leaf
            denied = denial(cpu, access, granted, _key(raw))
            break
        table = raw & ADDRESS_MASK
    if denied is not None:
        return Walk(va, access, cpu, _PAGE_FAULT, denied, level, None, raws, granted)
    offset = (8 << 9 * level) - 1
    pa = raw & ADDRESS_MASK & ~offset | va & offset
    outcome = _NO_MEMORY if memory.offset(pa) < 0 else _MAPPED
    return Walk(va, access, cpu, outcome, "COMBINE", level, pa, raws, granted)


def reserved_bits(cpu: CpuState, level: int, huge: bool) -> dict[str, int]:
    """Name the reserved bits of a present entry: rule → mask.

    Where several are set at once the first rule of the dictionary is the one named; the fault is
    the same (SDM 4.5, tables of entry formats).

    :param level: 5 to 1
    :param huge: whether the entry's bit 7 is set
    """
    rules = {
        "RSVD_ADDR": cpu.reserved_address,
        "RSVD_NX": 0 if cpu.nxe else _NO_EXECUTE,
    }
    if level >= 4 or (level == 3 and not cpu.pdpe1gb):
        rules["RSVD_PS"] = _HUGE
    elif level == 3 and huge:
        rules["RSVD_1G"] = _bits(29, 13)
    elif level == 2 and huge:
        rules["RSVD_2M"] = _bits(20, 13)
    if level >= 4 and cpu.amd:
        rules["RSVD_PS"] |= _BIT_8
    return rules


def reserved_masks(cpu: CpuState) -> tuple[tuple[int, int], ...]:
    """Give all reserved bits of a present entry, ``masks[level][bit 7 of the entry]``."""
    return tuple(
        (_union(cpu, level, huge=False), _union(cpu, level, huge=True)) for level in range(6)
    )


def _levels(cpu: CpuState) -> tuple[tuple[int, int, tuple[int, int]], ...]:
    # From the root down: the level, where its index is in an address, times 8, its reserved bits.
    key = (cpu.levels, cpu.reserved_address, cpu.nxe, cpu.pdpe1gb, cpu.amd)
    known = _LEVELS.get(key)
    if known is None:
        masks = reserved_masks(cpu)
        known = tuple((level, 9 * level, masks[level]) for level in range(cpu.levels, 0, -1))
        _LEVELS[key] = known
    return known


def denial(cpu: CpuState, access: Access, granted: int, key: int) -> str | None:
    """Name the rule that forbids an access to a page, or give None.

    Where several do, a protection key goes first, since it alone shows in the error code.

    :param granted: the page's rights over all levels, as R/W, U/S and the *inverse* of XD at
        their places in an entry
    :param key: the leaf's protection key
    """
    user_page = granted & _USER
    write, fetch, user = access.is_write, access.is_fetch, _is_user(cpu, access)
    if not fetch:
        limits = 0
        if user_page and cpu.pke:  # PKU
            limits = cpu.pkru >> 2 * key
        elif not user_page and cpu.pks:  # PKS
            limits = cpu.pkrs >> 2 * key
        if limits & 1 or (limits & 2 and write and (user or cpu.wp)):
            return "PKU" if user_page else "PKS"
    if user and not user_page:
        return "USER_US"
    if user and write and not granted & _WRITABLE:
        return "USER_RW"
    if fetch and not granted & _NO_EXECUTE:
        return "NX"
    if user:
        return None
    if write and not granted & _WRITABLE and cpu.wp:
        return "WP"
    if fetch and user_page and cpu.smep:
        return "SMEP"
    if not fetch and user_page and cpu.smap and (access.implicit or not cpu.ac):
        return "SMAP"
    return None


def error_code(cpu: CpuState, access: Access, rule: str) -> int:
    """Compose the error code of a page fault that ``rule`` decided (ERR; SDM 4.7)."""
    code = _CAUSE.get(rule, _P)
    if access.is_write:
        code |= _W
    if _is_user(cpu, access):
        code |= _U
    if access.is_fetch and (cpu.nxe or cpu.smep):
        code |= _I
    return code


def _is_user(cpu: CpuState, access: Access) -> bool:
    # The CPU reads its own tables (GDT, IDT, TSS) as a supervisor, whoever is running.
    return cpu.user and not access.implicit


def _key(leaf: int) -> int:
    return leaf >> 59 & 15  # KEY


def _union(cpu: CpuState, level: int, *, huge: bool) -> int:
    return reduce(or_, reserved_bits(cpu, level, huge).values())


def _reserved_rule(cpu: CpuState, level: int, huge: int, raw: int) -> str:
    rules = reserved_bits(cpu, level, bool(huge))
    return next(rule for rule, bits in rules.items() if raw & bits)


def _bits(high: int, low: int) -> int:
    return (2 << high) - (1 << low)


def _add(into: dict[int, int], address: int, bits: int) -> None:
    if bits:
        into[address] = into.get(address, 0) | bits
