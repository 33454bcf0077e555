"""The control registers, EFER, RFLAGS and the page-fault error code, bit by bit.

Each is a layout (:mod:`harness.layout`): ``CR4(0x20)`` is ``CR4.PAE``, ``repr`` evaluates, and
``describe`` explains. A reserved bit of a control register is refused; an error code keeps it.
:mod:`harness.cpu`, which puts them together, hands out these names too.

Sources: SDM volume 3A, 2.5 (control registers), 2.2.1 (EFER), 4.7 (error code); volume 1, 3.4.3
(RFLAGS); AMD's APM volume 2, 3.1.7 (AMD's bits of EFER).
"""

from __future__ import annotations

from harness.layout import Layout, StrictLayout

__all__ = ["CR0", "CR3", "CR4", "EFER", "RFLAGS", "ErrorCode"]


class CR0(StrictLayout):
    """Control register 0."""

    PE = 0, "protection enable"
    MP = 1, "monitor coprocessor"
    EM = 2, "emulation: x87 instructions raise #NM"
    TS = 3, "task switched"
    ET = 4, "extension type, always 1 today"
    NE = 5, "numeric error: x87 errors raise #MF"
    WP = 16, "write protect: a supervisor write obeys read-only pages"
    AM = 18, "alignment mask: EFLAGS.AC turns alignment checks on at CPL 3"
    NW = 29, "not write-through"
    CD = 30, "cache disable"
    PG = 31, "paging"


class CR3(Layout):
    """Control register 3; bits 51:12 are the address of the root table."""

    PWT = 3, "write-through caching of the root table"
    PCD = 4, "no caching of the root table"
    LAM_U57 = 61, "linear-address masking of user pointers, bits 62:57"
    LAM_U48 = 62, "linear-address masking of user pointers, bits 62:48"


class CR4(StrictLayout):
    """Control register 4."""

    VME = 0, "virtual-8086 mode extensions"
    PVI = 1, "protected-mode virtual interrupts"
    TSD = 2, "time stamp disable: RDTSC is for CPL 0"
    DE = 3, "debugging extensions"
    PSE = 4, "page size extensions of 32-bit paging"
    PAE = 5, "physical address extension: entries of 64 bits"
    MCE = 6, "machine check enable"
    PGE = 7, "global pages"
    PCE = 8, "RDPMC is for every CPL"
    OSFXSR = 9, "the OS supports FXSAVE and SSE"
    OSXMMEXCPT = 10, "the OS handles #XM"
    UMIP = 11, "user-mode instruction prevention: SGDT and its kin are for CPL 0"
    LA57 = 12, "57-bit linear addresses, 5 levels"
    VMXE = 13, "VMX enable"
    SMXE = 14, "SMX enable"
    FSGSBASE = 16, "RDFSBASE and its kin are for every CPL"
    PCIDE = 17, "process-context identifiers in CR3 11:0"
    OSXSAVE = 18, "the OS supports XSAVE"
    KL = 19, "Key Locker"
    SMEP = 20, "a supervisor does not fetch from user pages"
    SMAP = 21, "a supervisor does not access the data of user pages, unless EFLAGS.AC is 1"
    PKE = 22, "protection keys for user pages (PKRU)"
    CET = 23, "control-flow enforcement"
    PKS = 24, "protection keys for supervisor pages (IA32_PKRS)"
    UINTR = 25, "user interrupts"
    LASS = 27, "linear-address space separation"
    LAM_SUP = 28, "linear-address masking of supervisor pointers"
    FRED = 32, "flexible return and event delivery"


class EFER(StrictLayout):
    """The extended feature enable register, MSR 0xC000_0080."""

    SCE = 0, "SYSCALL and SYSRET"
    LME = 8, "long mode enable"
    LMA = 10, "long mode active"
    NXE = 11, "bit 63 of an entry forbids fetches"
    SVME = 12, "SVM enable (AMD)"
    LMSLE = 13, "long mode segment limit enable (AMD)"
    FFXSR = 14, "fast FXSAVE (AMD)"
    TCE = 15, "translation cache extension (AMD)"
    MCOMMIT = 17, "MCOMMIT (AMD)"
    INTWB = 18, "interruptible WBINVD (AMD)"
    UAIE = 20, "upper address ignore (AMD)"
    AIBRSE = 21, "automatic IBRS (AMD)"


class RFLAGS(StrictLayout):
    """The flags register."""

    CF = 0, "carry"
    ONE = 1, "always 1"
    PF = 2, "parity"
    AF = 4, "auxiliary carry"
    ZF = 6, "zero"
    SF = 7, "sign"
    TF = 8, "trap after each instruction"
    IF = 9, "interrupts are taken"
    DF = 10, "string instructions run downwards"
    OF = 11, "overflow"
    IOPL_LOW = 12, "bit 0 of the I/O privilege level"
    IOPL_HIGH = 13, "bit 1 of the I/O privilege level"
    NT = 14, "nested task"
    RF = 16, "resume after a breakpoint"
    VM = 17, "virtual-8086 mode, which long mode does not have"
    AC = 18, "alignment check; at CPL 0 to 2 with SMAP: user pages may be accessed"
    VIF = 19, "virtual interrupt flag"
    VIP = 20, "virtual interrupt pending"
    ID = 21, "CPUID can be used"


class ErrorCode(Layout):
    """The error code of a page fault (SDM volume 3A, figure 4-12)."""

    P = 0, "the entries were all present: a right was violated, or a reserved bit set"
    W = 1, "a write"
    U = 2, "an access at CPL 3"
    RSVD = 3, "a reserved bit was set in a present entry"
    I = 4, "an instruction fetch"  # noqa: E741 - the manual's I/D
    PK = 5, "a protection key forbids it"
    SS = 6, "a shadow-stack access"
    HLAT = 7, "during HLAT paging"
    SGX = 15, "against SGX's own access rules"
    RMP = 31, "against the reverse map table (AMD)"

    def sentence(self) -> str:
        """Return what the code says in words: who did what to what."""
        who = "a user" if self & ErrorCode.U else "a supervisor"
        what = "fetch" if self & ErrorCode.I else "write" if self & ErrorCode.W else "read"
        if self & ErrorCode.RSVD:
            why = "an entry has a reserved bit set"
        elif self & ErrorCode.PK:
            why = "the protection key forbids it"
        elif self & ErrorCode.P:
            why = "the page is present and its rights forbid it"
        else:
            why = "an entry is not present"
        return f"{who} {what}: {why}"
