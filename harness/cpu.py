"""The part of a CPU's state that paging depends on.

:class:`CpuState` holds plain ints: the control registers, EFER, RFLAGS, the protection-key
registers and the CPL, with the :class:`CpuFeatures` of the CPU that they are in. It is checked
once, when it is built: a state that a CPU in long mode cannot be in, or that is not modelled
here, raises :class:`~harness.errors.CpuStateError` with the rule (``MODE`` or ``CR3``). From then
on it is immutable, and what a walker asks of it (``root``, ``wp``, ``nxe``, ...) is a plain
attribute, worked out beforehand::

    >>> cpu = CpuState(cr3=0x1000, cpl=3).replace(cr4=CR4.PAE | CR4.SMEP)
    >>> cpu.levels, hex(cpu.root), cpu.smep, cpu.user
    (4, '0x1000', True, True)
    >>> CpuState(cr0=CR0.PE)
    Traceback (most recent call last):
    harness.errors.CpuStateError: CR0.PG must be 1 in long mode, not 0 as in cr0=0x1

:class:`CR0`, :class:`CR3`, :class:`CR4`, :class:`EFER`, :class:`RFLAGS` and :class:`ErrorCode`
name the bits (:mod:`harness.registers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any, Self

from harness.entry import ADDRESS_MASK
from harness.errors import CaseError, CpuStateError
from harness.layout import StrictLayout
from harness.registers import CR0, CR3, CR4, EFER, RFLAGS, ErrorCode

__all__ = ["CR0", "CR3", "CR4", "EFER", "RFLAGS", "VENDORS", "CpuFeatures", "CpuState", "ErrorCode"]


VENDORS: tuple[str, ...] = ("intel", "amd")
"""Whose manual a CPU follows."""


@dataclass(frozen=True, slots=True, repr=False)
class CpuFeatures:
    """What a CPU offers (its CPUID), as far as paging and its control bits depend on it.

    :ivar maxphyaddr: bits of a physical address, 32 to 52.
    :ivar pdpe1gb: 1 GiB pages.
    :ivar la57: 5 levels.
    :ivar nx: EFER.NXE.
    :ivar vendor: ``intel`` or ``amd``: on AMD bit 8 of a PML4E and of a PML5E is reserved.
    :raises CpuStateError: when ``maxphyaddr`` is out of range, or for another vendor.
    """

    maxphyaddr: int = 40
    pdpe1gb: bool = True
    la57: bool = True
    nx: bool = True
    smep: bool = True
    smap: bool = True
    pku: bool = True
    pks: bool = True
    pcid: bool = True
    pge: bool = True
    umip: bool = True
    cet: bool = True
    uintr: bool = True
    vendor: str = "intel"

    def __post_init__(self) -> None:
        # SDM volume 3A, 4.1.4: "MAXPHYADDR is at most 52"; 32 is what a CPU without PAE has.
        if type(self.maxphyaddr) is not int or not 32 <= self.maxphyaddr <= 52:
            raise CpuStateError(
                f"maxphyaddr must be 32 to 52 bits, not {self.maxphyaddr!r}", rule="MODE"
            )

        if self.vendor not in VENDORS:
            raise CpuStateError(
                f"vendor must be {' or '.join(VENDORS)}, not {self.vendor!r}", rule="MODE"
            )

    def replace(self, **changes: Any) -> Self:
        """Return the same features with some of them changed."""
        return dataclasses.replace(self, **changes)

    def differences(self) -> dict[str, int | bool | str]:
        """Return the features that differ from the default ones."""
        return {
            name: getattr(self, name)
            for name in _FEATURE_NAMES
            if getattr(self, name) != getattr(_DEFAULT_FEATURES, name)
        }

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.differences().items())
        return f"CpuFeatures({arguments})"


_FEATURE_NAMES = tuple(feature.name for feature in dataclasses.fields(CpuFeatures))
_DEFAULT_FEATURES = CpuFeatures()

# Each register and its number of bits, in the order of the constructor.
_REGISTERS = {
    "cr0": 64,
    "cr3": 64,
    "cr4": 64,
    "efer": 64,
    "rflags": 64,
    "pkru": 32,
    "pkrs": 32,
    "cpl": 2,
}
_LAYOUTS: dict[str, type[StrictLayout]] = {"cr0": CR0, "cr4": CR4, "efer": EFER, "rflags": RFLAGS}

# What long mode needs (rule MODE), what it excludes, and what a CPU refuses without a feature.
_MUST_BE_SET: tuple[tuple[str, StrictLayout], ...] = (
    ("cr0", CR0.PE),
    ("cr0", CR0.PG),
    ("cr4", CR4.PAE),
    ("efer", EFER.LME),
    ("efer", EFER.LMA),
)
_MUST_BE_CLEAR: tuple[tuple[str, StrictLayout, str], ...] = (("rflags", RFLAGS.VM, "in long mode"),)
_NEEDS: tuple[tuple[str, StrictLayout, str], ...] = (
    ("efer", EFER.NXE, "nx"),
    ("cr4", CR4.PGE, "pge"),
    ("cr4", CR4.UMIP, "umip"),
    ("cr4", CR4.LA57, "la57"),
    ("cr4", CR4.PCIDE, "pcid"),
    ("cr4", CR4.SMEP, "smep"),
    ("cr4", CR4.SMAP, "smap"),
    ("cr4", CR4.PKE, "pku"),
    ("cr4", CR4.CET, "cet"),
    ("cr4", CR4.PKS, "pks"),
    ("cr4", CR4.UINTR, "uintr"),
)

# (attribute, register, bit): plain ints, because operations on an IntFlag take microseconds and a
# campaign builds many states.
_SWITCHES = (
    ("wp", "cr0", int(CR0.WP)),
    ("nxe", "efer", int(EFER.NXE)),
    ("smep", "cr4", int(CR4.SMEP)),
    ("smap", "cr4", int(CR4.SMAP)),
    ("pke", "cr4", int(CR4.PKE)),
    ("pks", "cr4", int(CR4.PKS)),
    ("la57", "cr4", int(CR4.LA57)),
    ("pcide", "cr4", int(CR4.PCIDE)),
    ("ac", "rflags", int(RFLAGS.AC)),
)
_ALLOWED = tuple((register, layout, layout.mask()) for register, layout in _LAYOUTS.items())
_SET = tuple((register, int(bit), bit) for register, bit in _MUST_BE_SET)
_CLEAR = tuple((register, int(bit), bit, why) for register, bit, why in _MUST_BE_CLEAR)
_FEATURE_BITS = tuple((register, int(bit), bit, feature) for register, bit, feature in _NEEDS)
_NW, _CD, _WP, _CET = int(CR0.NW), int(CR0.CD), int(CR0.WP), int(CR4.CET)
_RFLAGS_ONE = int(RFLAGS.ONE)
_LAM_USER = int(CR3.LAM_U48) | int(CR3.LAM_U57)
_UNMODELLED = (
    ("cr4", int(CR4.LAM_SUP), "CR4.LAM_SUP: a masked supervisor pointer counts as not canonical"),
    ("cr3", _LAM_USER, "CR3's LAM bits: a masked user pointer counts as not canonical"),
    ("cr4", int(CR4.LASS), "CR4.LASS: accesses to the other half of the address space pass"),
    ("cr4", int(CR4.CET), "CR4.CET: there are no shadow-stack accesses"),
    ("efer", int(EFER.UAIE), "EFER.UAIE: a pointer with upper bits counts as not canonical"),
)


def _derived() -> Any:
    return field(init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True, repr=False)
class CpuState:
    """A CPU in long mode, as far as paging depends on it.

    The default is what a kernel has at CPL 0: 4 levels, CR0.WP and EFER.NXE on, the rest off.

    :ivar cr0: control register 0.
    :ivar cr3: control register 3: the root table's address and flags or PCID.
    :ivar cr4: control register 4.
    :ivar efer: the MSR EFER.
    :ivar rflags: the flags; bit 1 is always 1, also when it is not given.
    :ivar pkru: rights of user pages' protection keys.
    :ivar pkrs: rights of supervisor pages' protection keys.
    :ivar cpl: the current privilege level, 0 to 3.
    :ivar features: what the CPU offers.
    :ivar levels: 4 or 5, by CR4.LA57.
    :ivar root: the root table's address, CR3 bits 51:12 (rule ``CR3``).
    :ivar user: whether the CPL is 3.
    :ivar wp: CR0.WP.
    :ivar nxe: EFER.NXE.
    :ivar smep: CR4.SMEP.
    :ivar smap: CR4.SMAP.
    :ivar pke: CR4.PKE.
    :ivar pks: CR4.PKS (``pkrs`` is the register).
    :ivar la57: CR4.LA57.
    :ivar pcide: CR4.PCIDE.
    :ivar ac: RFLAGS.AC.
    :ivar maxphyaddr: bits of a physical address.
    :ivar pdpe1gb: whether a PDPTE may map a page.
    :ivar amd: whether it follows AMD's manual (rule ``RSVD_PS``).
    :ivar reserved_address: bits 51:MAXPHYADDR, reserved in every entry (rule ``RSVD_ADDR``).
    :raises CpuStateError: when the CPU cannot be in that state or it is not modelled.
    """

    cr0: int = 0x8005_0033
    cr3: int = 0
    cr4: int = 0x20
    efer: int = 0xD00
    rflags: int = 0x2
    pkru: int = 0
    pkrs: int = 0
    cpl: int = 0
    features: CpuFeatures = _DEFAULT_FEATURES

    levels: int = _derived()
    root: int = _derived()
    user: bool = _derived()
    wp: bool = _derived()
    nxe: bool = _derived()
    smep: bool = _derived()
    smap: bool = _derived()
    pke: bool = _derived()
    pks: bool = _derived()
    la57: bool = _derived()
    pcide: bool = _derived()
    ac: bool = _derived()
    maxphyaddr: int = _derived()
    pdpe1gb: bool = _derived()
    amd: bool = _derived()
    reserved_address: int = _derived()

    def __post_init__(self) -> None:
        put = object.__setattr__
        for register, bits in _REGISTERS.items():
            value = int(index(getattr(self, register)))
            if value >> bits:
                raise CpuStateError(
                    f"{register} must fit in {bits} bits, not be {value:#_x}", rule="MODE"
                )
            put(self, register, value)
        put(self, "rflags", self.rflags | _RFLAGS_ONE)
        self._check_mode()
        features = self.features
        above = (self.cr3 & ~_LAM_USER) >> features.maxphyaddr
        if above:
            raise CpuStateError(
                f"the bits of CR3 from bit {features.maxphyaddr} (maxphyaddr) up must be 0, "
                f"not {above << features.maxphyaddr:#_x} "
                f"(in {self.cr3:#_x})",
                rule="CR3",
            )
        for attribute, register, bit in _SWITCHES:
            put(self, attribute, bool(getattr(self, register) & bit))
        put(self, "levels", 5 if self.la57 else 4)
        put(self, "root", self.cr3 & ADDRESS_MASK)
        put(self, "user", self.cpl == 3)
        put(self, "maxphyaddr", features.maxphyaddr)
        put(self, "pdpe1gb", features.pdpe1gb)
        put(self, "amd", features.vendor == "amd")
        put(self, "reserved_address", (1 << 52) - (1 << features.maxphyaddr))

    def _check_mode(self) -> None:
        for register, layout, allowed in _ALLOWED:
            value = getattr(self, register)
            if value & ~allowed:
                layout(value)  # raises, naming the reserved bits
        for register, bit, member in _SET:
            if not getattr(self, register) & bit:
                raise self._refusal(register, member, "must be 1 in long mode, not 0")
        for register, bit, member, why in _CLEAR:
            if getattr(self, register) & bit:
                raise self._refusal(register, member, f"must be 0 {why}, not 1")
        for register, bit, member, feature in _FEATURE_BITS:
            if getattr(self, register) & bit and not getattr(self.features, feature):
                raise self._refusal(
                    register, member, f"must be 0 on a CPU without the feature {feature}, not 1"
                )
        # SDM volume 2B, MOV to control registers: these raise #GP(0).
        if self.cr0 & _NW and not self.cr0 & _CD:
            raise self._refusal("cr0", CR0.NW, "must be 0 while CR0.CD is 0, not 1")
        if self.cr4 & _CET and not self.cr0 & _WP:
            raise self._refusal("cr4", CR4.CET, "must be 0 while CR0.WP is 0, not 1")

    def _refusal(self, register: str, member: StrictLayout, must: str) -> CpuStateError:
        value = getattr(self, register)
        return CpuStateError(f"{member!r} {must} as in {register}={value:#_x}", rule="MODE")

    @property
    def unmodelled(self) -> tuple[str, ...]:
        """Say which bits of this state the walker accepts and does not model."""
        return tuple(why for register, bits, why in _UNMODELLED if getattr(self, register) & bits)

    @property
    def cr0_bits(self) -> CR0:
        """Give CR0 with named bits."""
        return CR0(self.cr0)

    @property
    def cr4_bits(self) -> CR4:
        """Give CR4 with named bits."""
        return CR4(self.cr4)

    @property
    def efer_bits(self) -> EFER:
        """Give EFER with named bits."""
        return EFER(self.efer)

    @property
    def rflags_bits(self) -> RFLAGS:
        """Give RFLAGS with named bits."""
        return RFLAGS(self.rflags)

    def replace(self, **changes: Any) -> Self:
        """Return the same state with some fields changed, checked again.

        :param changes: fields of the constructor.
        :raises CpuStateError: when the CPU cannot be in that state.
        """
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_json(cls, data: Mapping[str, object], *, default: CpuState | None = None) -> CpuState:
        """Return the state that the ``cpu`` object of a case describes.

        :param data: ``cr0`` ... ``cpl``, ``pkrs``, ``maxphyaddr``, ``vendor`` and ``features``;
            numbers are ints or hex strings.
        :param default: what is left out is taken from here.
        :raises CaseError: for an unknown key or a value of the wrong kind.
        :raises CpuStateError: when the CPU cannot be in that state.
        """
        base = default or cls()
        if not isinstance(data, Mapping):
            raise CaseError(f"cpu must be an object, not {data!r}")
        values: dict[str, int] = {}
        features: dict[str, int | bool | str] = {}
        for key, value in data.items():
            if key in _REGISTERS:
                values[key] = _number(f"cpu.{key}", value)
            elif key == "maxphyaddr":
                features[key] = _number("cpu.maxphyaddr", value)
            elif key == "vendor":
                features[key] = _vendor("cpu.vendor", value)
            elif key == "features":
                features |= _features(value)
            else:
                known = ", ".join([*_REGISTERS, "maxphyaddr", "vendor", "features"])
                raise CaseError(f"a key of cpu must be one of {known}, not {key!r}")
        return base.replace(features=base.features.replace(**features), **values)

    def to_json(self) -> dict[str, Any]:
        """Return the ``cpu`` object of a case: every register, and the features that differ."""
        result: dict[str, Any] = {
            register: f"{getattr(self, register):#x}" for register in _REGISTERS
        }
        result["cpl"] = self.cpl
        result["maxphyaddr"] = self.maxphyaddr
        features = self.features.differences()
        features.pop("maxphyaddr", None)
        if features:
            result["features"] = features
        return result

    def __repr__(self) -> str:
        default = _DEFAULT_STATE
        parts = [
            f"{register}={getattr(self, register):#_x}"
            for register in _REGISTERS
            if getattr(self, register) != getattr(default, register)
        ]
        if self.features != default.features:
            parts.append(f"features={self.features!r}")
        return f"CpuState({', '.join(parts)})"

    def describe(self) -> str:
        """Return the state for people: one line for each register, with its bits by name."""
        lines = [
            f"{register.upper():<7}{getattr(self, register):#_x}  {layout(getattr(self, register))}"
            for register, layout in _LAYOUTS.items()
        ]
        lines.insert(1, f"CR3    {self.cr3:#_x}  root table at {self.root:#_x}")
        lines.append(f"PKRU   {self.pkru:#_x}")
        lines.append(f"PKRS   {self.pkrs:#_x}")
        lines.append(f"CPL    {self.cpl}")
        lines.append(f"{self.levels} levels, {self.maxphyaddr} bits of physical address")
        return "\n".join(lines)


_DEFAULT_STATE = CpuState()


def _number(key: str, value: object) -> int:
    number = value
    if isinstance(value, str):
        try:
            number = int(value, 0)
        except ValueError:
            number = None
    if type(number) is not int or number < 0:
        raise CaseError(f"{key} must be a number or a hex string, not {value!r}")
    return number


def _vendor(key: str, value: object) -> str:
    if value not in VENDORS:
        raise CaseError(f"{key} must be {' or '.join(VENDORS)}, not {value!r}")
    return str(value)


def _features(value: object) -> dict[str, int | bool | str]:
    if not isinstance(value, Mapping):
        raise CaseError(f"cpu.features must be an object, not {value!r}")
    result: dict[str, int | bool | str] = {}
    for name, offered in value.items():
        if name not in _FEATURE_NAMES:
            known = ", ".join(_FEATURE_NAMES)
            raise CaseError(f"a key of cpu.features must be one of {known}, not {name!r}")
        if name == "maxphyaddr":
            result[name] = _number("cpu.features.maxphyaddr", offered)
        elif name == "vendor":
            result[name] = _vendor("cpu.features.vendor", offered)
        elif isinstance(offered, bool):
            result[name] = offered
        else:
            raise CaseError(f"cpu.features.{name} must be true or false, not {offered!r}")
    return result
