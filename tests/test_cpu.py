"""The CPU's state: what is accepted, what is refused and why, and the bits by name."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from json import dumps, loads
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cpu as cpu_module
from harness.cpu import CR0, CR3, CR4, EFER, RFLAGS, CpuFeatures, CpuState, ErrorCode
from harness.errors import CaseError, CpuStateError
from harness.layout import Layout, StrictLayout

SETS = Path(__file__).parents[1] / "fixtures" / "page-tables"
NAMES = ["linux-max", "linux-max-pti", "linux-qemu64", "memtest-max", "ovmf-max"]
CASE_KEYS = ("cr0", "cr3", "cr4", "efer", "rflags", "pkru", "pkrs", "cpl", "maxphyaddr")

# The registers' bits, straight from the manuals.
MANUAL: dict[type[Layout], str] = {
    CR0: "PE 0, MP 1, EM 2, TS 3, ET 4, NE 5, WP 16, AM 18, NW 29, CD 30, PG 31",
    CR3: "PWT 3, PCD 4, LAM_U57 61, LAM_U48 62",
    CR4: "VME 0, PVI 1, TSD 2, DE 3, PSE 4, PAE 5, MCE 6, PGE 7, PCE 8, OSFXSR 9, OSXMMEXCPT 10, "
    "UMIP 11, LA57 12, VMXE 13, SMXE 14, FSGSBASE 16, PCIDE 17, OSXSAVE 18, KL 19, SMEP 20, "
    "SMAP 21, PKE 22, CET 23, PKS 24, UINTR 25, LASS 27, LAM_SUP 28, FRED 32",
    EFER: "SCE 0, LME 8, LMA 10, NXE 11, SVME 12, LMSLE 13, FFXSR 14, TCE 15, MCOMMIT 17, "
    "INTWB 18, UAIE 20, AIBRSE 21",
    RFLAGS: "CF 0, ONE 1, PF 2, AF 4, ZF 6, SF 7, TF 8, IF 9, DF 10, OF 11, IOPL_LOW 12, "
    "IOPL_HIGH 13, NT 14, RF 16, VM 17, AC 18, VIF 19, VIP 20, ID 21",
    ErrorCode: "P 0, W 1, U 2, RSVD 3, I 4, PK 5, SS 6, HLAT 7, SGX 15, RMP 31",
}


# Layouts


@pytest.mark.parametrize("layout", MANUAL, ids=lambda layout: layout.__name__)
def test_bits_are_where_the_manual_has_them(layout: type[Layout]) -> None:
    bits = [f"{member.name} {int(member).bit_length() - 1}" for member in layout]
    assert ", ".join(bits) == MANUAL[layout]
    assert all(member.meaning for member in layout)


@given(st.sampled_from(list(MANUAL)), st.data())
def test_a_layout_evaluates(layout: type[Layout], data: st.DataObject) -> None:
    members = data.draw(st.sets(st.sampled_from(list(layout))))
    value = layout(sum(members))
    assert value.members == sorted(members)
    assert eval(repr(value), vars(cpu_module)) == value
    assert pickle.loads(pickle.dumps(value)) is value
    assert len(value.describe().splitlines()) == max(len(members), 1)


def test_a_layout_prints_itself() -> None:
    assert repr(CR4.PAE | CR4.PGE) == "CR4.PAE | CR4.PGE"
    assert repr(CR4(0)) == "CR4(0x0)"
    assert str(CR4(0x30)) == "PSE PAE"
    assert str(CR4(0)) == "0"
    assert f"{ErrorCode(0x15)} = {ErrorCode(0x15):#x}" == "P U I = 0x15"
    assert (CR4.LA57 | CR4.PAE).describe() == (
        "bit 5  PAE        physical address extension: entries of 64 bits\n"
        "bit 12 LA57       57-bit linear addresses, 5 levels"
    )


def test_an_error_code_keeps_unknown_bits() -> None:
    code = ErrorCode(0x1_0003)
    assert int(code) == 0x1_0003
    assert code.unknown == 0x1_0000
    assert repr(code) == "ErrorCode.P | ErrorCode.W | ErrorCode(0x10000)"
    assert str(code) == "P W 0x10000"
    assert code.describe().endswith("\nbits with no name: 0x1_0000")
    assert eval(repr(code)) == code


def test_a_control_register_refuses_reserved_bits() -> None:
    with pytest.raises(CpuStateError) as caught:
        CR4(1 << 40 | 0x20)
    assert str(caught.value) == (
        "reserved bits of CR4 must be 0, not 0x100_0000_0000 (in 0x100_0000_0020)"
    )
    assert caught.value.rule == "MODE"
    assert issubclass(CR0, StrictLayout)
    assert int(~CR0.WP) == CR0.mask() - int(CR0.WP)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (0x00, "a supervisor read: an entry is not present"),
        (0x07, "a user write: the page is present and its rights forbid it"),
        (0x15, "a user fetch: the page is present and its rights forbid it"),
        (0x0B, "a supervisor write: an entry has a reserved bit set"),
        (0x25, "a user read: the protection key forbids it"),
    ],
)
def test_an_error_code_in_words(code: int, sentence: str) -> None:
    assert ErrorCode(code).sentence() == sentence


# States


def test_the_default_state() -> None:
    cpu = CpuState()
    assert (cpu.levels, cpu.root, cpu.maxphyaddr, cpu.cpl) == (4, 0, 40, 0)
    assert (cpu.wp, cpu.nxe, cpu.pdpe1gb) == (True, True, True)
    assert not any((cpu.smep, cpu.smap, cpu.pke, cpu.pks, cpu.la57, cpu.pcide, cpu.ac, cpu.user))
    assert cpu.reserved_address == 0x000F_FF00_0000_0000
    assert repr(cpu) == "CpuState()"


@pytest.mark.parametrize(
    ("attribute", "changes"),
    [
        ("smep", {"cr4": CR4.PAE | CR4.SMEP}),
        ("smap", {"cr4": CR4.PAE | CR4.SMAP}),
        ("pke", {"cr4": CR4.PAE | CR4.PKE}),
        ("pks", {"cr4": CR4.PAE | CR4.PKS}),
        ("la57", {"cr4": CR4.PAE | CR4.LA57}),
        ("pcide", {"cr4": CR4.PAE | CR4.PCIDE}),
        ("ac", {"rflags": RFLAGS.AC}),
        ("user", {"cpl": 3}),
    ],
)
def test_one_bit_turns_one_switch(attribute: str, changes: dict[str, int]) -> None:
    switches = ("smep", "smap", "pke", "pks", "la57", "pcide", "ac", "user")
    cpu = CpuState(**changes)  # type: ignore[arg-type]
    assert [name for name in switches if getattr(cpu, name)] == [attribute]
    assert cpu.levels == (5 if attribute == "la57" else 4)
    assert type(cpu.cr4) is type(cpu.rflags) is int


def test_what_is_on_by_default_can_be_off() -> None:
    cpu = CpuState(cr0=CR0.PE | CR0.PG, efer=EFER.LME | EFER.LMA)
    assert (cpu.wp, cpu.nxe) == (False, False)
    assert (cpu.cr0_bits, cpu.efer_bits) == (CR0.PE | CR0.PG, EFER.LME | EFER.LMA)
    assert cpu.cr4_bits is CR4.PAE
    assert cpu.rflags_bits is RFLAGS.ONE


def test_the_root_is_bits_51_to_12() -> None:
    cpu = CpuState(cr3=0x12_3FFF)
    assert cpu.root == 0x12_3000
    assert cpu.cr3 == 0x12_3FFF
    assert CpuState(cr3=0xFF_FFFF_F000).root == 0xFF_FFFF_F000


@pytest.mark.parametrize("cpl", [0, 1, 2])
def test_only_cpl_3_is_a_user(cpl: int) -> None:
    assert not CpuState(cpl=cpl).user


def test_bit_1_of_rflags_is_always_1() -> None:
    assert CpuState(rflags=0).rflags == 2
    assert CpuState(rflags=0) == CpuState()


def test_a_state_is_immutable_and_a_value() -> None:
    cpu = CpuState(cr3=0x1000)
    with pytest.raises(FrozenInstanceError):
        cpu.cr3 = 0  # type: ignore[misc]
    assert cpu == CpuState(cr3=0x1000)
    assert hash(cpu) == hash(CpuState(cr3=0x1000))
    assert cpu != CpuState(cr3=0x2000)
    assert cpu.replace(cr3=0x2000).root == 0x2000
    assert pickle.loads(pickle.dumps(cpu)).root == 0x1000


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"cr0": CR0.PG}, "MODE", "CR0.PE must be 1 in long mode, not 0 as in cr0=0x8000_0000"),
    ({"cr0": CR0.PE}, "MODE", "CR0.PG must be 1 in long mode, not 0 as in cr0=0x1"),
    ({"cr4": 0}, "MODE", "CR4.PAE must be 1 in long mode, not 0 as in cr4=0x0"),
    ({"efer": EFER.LMA}, "MODE", "EFER.LME must be 1 in long mode, not 0 as in efer=0x400"),
    ({"efer": EFER.LME}, "MODE", "EFER.LMA must be 1 in long mode, not 0 as in efer=0x100"),
    (
        {"cr0": 0xA005_0033},
        "MODE",
        "CR0.NW must be 0 while CR0.CD is 0, not 1 as in cr0=0xa005_0033",
    ),
    (
        {"rflags": RFLAGS.VM},
        "MODE",
        "RFLAGS.VM must be 0 in long mode, not 1 as in rflags=0x2_0002",
    ),
    (
        {"cr0": 0x8000_0011, "cr4": 0x80_0020, "features": CpuFeatures(cet=True)},
        "MODE",
        "CR4.CET must be 0 while CR0.WP is 0, not 1 as in cr4=0x80_0020",
    ),
    (
        {"cr0": 0x1_8005_0033},
        "MODE",
        "reserved bits of CR0 must be 0, not 0x1_0000_0000 (in 0x1_8005_0033)",
    ),
    ({"cr4": 0x8020}, "MODE", "reserved bits of CR4 must be 0, not 0x8000 (in 0x8020)"),
    ({"efer": 0xD02}, "MODE", "reserved bits of EFER must be 0, not 0x2 (in 0xd02)"),
    ({"rflags": 0x28}, "MODE", "reserved bits of RFLAGS must be 0, not 0x28 (in 0x2a)"),
    ({"cpl": 4}, "MODE", "cpl must fit in 2 bits, not be 0x4"),
    ({"pkru": 1 << 32}, "MODE", "pkru must fit in 32 bits, not be 0x1_0000_0000"),
    ({"cr3": -1}, "MODE", "cr3 must fit in 64 bits, not be -0x1"),
    (
        {"cr3": 1 << 40 | 0x1000},
        "CR3",
        "the bits of CR3 from bit 40 (maxphyaddr) up must be 0, not 0x100_0000_0000 "
        "(in 0x100_0000_1000)",
    ),
    (
        {"cr3": 1 << 63, "features": CpuFeatures(maxphyaddr=52)},
        "CR3",
        "the bits of CR3 from bit 52 (maxphyaddr) up must be 0, not 0x8000_0000_0000_0000 "
        "(in 0x8000_0000_0000_0000)",
    ),
]


@pytest.mark.parametrize(("changes", "rule", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_refused_states(changes: dict[str, Any], rule: str, message: str) -> None:
    with pytest.raises(CpuStateError) as caught:
        CpuState(**changes)
    assert str(caught.value) == message
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("changes", "feature", "bit"),
    [
        ({"efer": 0xD00}, "nx", "EFER.NXE"),
        ({"cr4": CR4.PAE | CR4.PGE}, "pge", "CR4.PGE"),
        ({"cr4": CR4.PAE | CR4.UMIP}, "umip", "CR4.UMIP"),
        ({"cr4": CR4.PAE | CR4.LA57}, "la57", "CR4.LA57"),
        ({"cr4": CR4.PAE | CR4.PCIDE}, "pcid", "CR4.PCIDE"),
        ({"cr4": CR4.PAE | CR4.SMEP}, "smep", "CR4.SMEP"),
        ({"cr4": CR4.PAE | CR4.SMAP}, "smap", "CR4.SMAP"),
        ({"cr4": CR4.PAE | CR4.PKE}, "pku", "CR4.PKE"),
        ({"cr4": CR4.PAE | CR4.PKS}, "pks", "CR4.PKS"),
        ({"cr4": CR4.PAE | CR4.CET}, "cet", "CR4.CET"),
        ({"cr4": CR4.PAE | CR4.UINTR}, "uintr", "CR4.UINTR"),
    ],
)
def test_a_bit_needs_its_feature(changes: dict[str, Any], feature: str, bit: str) -> None:
    has: dict[str, Any] = {feature: True}
    lacks: dict[str, Any] = {feature: False}
    CpuState(features=CpuFeatures(**has), **changes)
    with pytest.raises(CpuStateError) as caught:
        CpuState(features=CpuFeatures(**lacks), **changes)
    assert str(caught.value).startswith(
        f"{bit} must be 0 on a CPU without the feature {feature}, not 1 as in "
    )


@pytest.mark.parametrize("bits", [31, 53, 40.0, True, "40"])
def test_maxphyaddr_is_checked(bits: Any) -> None:
    with pytest.raises(CpuStateError, match=f"^maxphyaddr must be 32 to 52 bits, not {bits!r}$"):
        CpuFeatures(maxphyaddr=bits)


def test_maxphyaddr_moves_the_reserved_bits() -> None:
    assert CpuState(features=CpuFeatures(maxphyaddr=52)).reserved_address == 0
    narrow = CpuFeatures(maxphyaddr=36)
    assert CpuState(features=narrow).reserved_address == 0x000F_FFF0_0000_0000
    CpuState(cr3=(1 << 36) - 0x1000, features=narrow)
    with pytest.raises(CpuStateError):
        CpuState(cr3=1 << 36, features=narrow)


def test_features_print_what_differs() -> None:
    features = CpuFeatures(maxphyaddr=48, pdpe1gb=False)
    assert repr(features) == "CpuFeatures(maxphyaddr=48, pdpe1gb=False)"
    assert repr(CpuFeatures()) == "CpuFeatures()"
    assert features.replace(pdpe1gb=True) == CpuFeatures(maxphyaddr=48)


# Files


@pytest.mark.parametrize("name", NAMES)
def test_the_real_states_are_accepted(name: str) -> None:
    data = loads((SETS / name / "cpu.json").read_text())
    cpu = CpuState.from_json({key: data[key] for key in CASE_KEYS})
    assert cpu.levels == data["levels"]
    assert cpu.root == int(data["cr3"], 16) & ~0xFFF
    switches = {
        "LA57": cpu.la57, "PKE": cpu.pke, "PKS": cpu.pks, "SMEP": cpu.smep, "SMAP": cpu.smap,
        "UMIP": CR4.UMIP in cpu.cr4_bits, "PGE": CR4.PGE in cpu.cr4_bits, "PCIDE": cpu.pcide,
        "NXE": cpu.nxe, "WP": cpu.wp, "AC": cpu.ac,
    }  # fmt: skip
    assert switches == data["on"]


def _states() -> st.SearchStrategy[CpuState]:
    def subset(layout: type[Layout], always: int, never: int = 0) -> st.SearchStrategy[int]:
        free = [int(member) for member in layout if not int(member) & (always | never)]
        return st.sets(st.sampled_from(free)).map(lambda bits: always | sum(bits))

    features = st.builds(
        CpuFeatures,
        maxphyaddr=st.integers(36, 52),
        pdpe1gb=st.booleans(),
        cet=st.just(True),
        uintr=st.just(True),
    )
    return st.builds(
        CpuState,
        cr0=subset(CR0, CR0.PE | CR0.PG | CR0.WP, CR0.NW),
        cr3=st.integers(0, (1 << 36) - 1),
        cr4=subset(CR4, CR4.PAE),
        efer=subset(EFER, EFER.LME | EFER.LMA),
        rflags=subset(RFLAGS, RFLAGS.ONE, RFLAGS.VM),
        pkru=st.integers(0, (1 << 32) - 1),
        pkrs=st.integers(0, (1 << 32) - 1),
        cpl=st.integers(0, 3),
        features=features,
    )


@given(_states())
def test_json_and_repr_are_inverse(cpu: CpuState) -> None:
    assert CpuState.from_json(loads(dumps(cpu.to_json()))) == cpu
    assert eval(repr(cpu), vars(cpu_module)) == cpu


def test_the_case_of_the_design() -> None:
    data = {
        "cr0": "0x80050033", "cr3": "0x1000", "cr4": "0x20", "efer": "0xd00", "rflags": "0x2",
        "pkru": "0x0", "cpl": 3, "maxphyaddr": 40,
    }  # fmt: skip
    cpu = CpuState.from_json(data)
    assert cpu == CpuState(cr3=0x1000, cpl=3)
    assert cpu.to_json() == {**data, "pkrs": "0x0"}
    assert CpuState.from_json({"features": {"pdpe1gb": False}}).to_json()["features"] == {
        "pdpe1gb": False
    }


def test_what_is_left_out_is_the_default() -> None:
    default = CpuState(cr3=0x5000, features=CpuFeatures(maxphyaddr=48, la57=False))
    cpu = CpuState.from_json({"cpl": 3, "features": {"la57": True}}, default=default)
    assert cpu == CpuState(cr3=0x5000, cpl=3, features=CpuFeatures(maxphyaddr=48))
    assert CpuState.from_json({}) == CpuState()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "cpu must be an object, not []"),
        (
            {"cr5": 0},
            "a key of cpu must be one of cr0, cr3, cr4, efer, rflags, pkru, pkrs, cpl, "
            "maxphyaddr, vendor, features, not 'cr5'",
        ),
        ({"cr0": "zero"}, "cpu.cr0 must be a number or a hex string, not 'zero'"),
        ({"cr0": None}, "cpu.cr0 must be a number or a hex string, not None"),
        ({"cr0": True}, "cpu.cr0 must be a number or a hex string, not True"),
        ({"cr0": 1.0}, "cpu.cr0 must be a number or a hex string, not 1.0"),
        ({"cr3": -4096}, "cpu.cr3 must be a number or a hex string, not -4096"),
        ({"maxphyaddr": "x"}, "cpu.maxphyaddr must be a number or a hex string, not 'x'"),
        ({"features": 1}, "cpu.features must be an object, not 1"),
        (
            {"features": {"sse": True}},
            "a key of cpu.features must be one of maxphyaddr, pdpe1gb, la57, nx, smep, smap, pku, "
            "pks, pcid, pge, umip, cet, uintr, vendor, not 'sse'",
        ),
        ({"features": {"nx": 1}}, "cpu.features.nx must be true or false, not 1"),
    ],
)
def test_malformed_cases(data: Any, message: str) -> None:
    with pytest.raises(CaseError) as caught:
        CpuState.from_json(data)
    assert str(caught.value) == message


def test_an_illegal_state_in_a_file_names_its_rule() -> None:
    with pytest.raises(CpuStateError) as caught:
        CpuState.from_json({"cr3": "0x10000000000"})
    assert caught.value.rule == "CR3"


def test_a_state_describes_itself() -> None:
    cpu = CpuState(cr3=0x2A5_C000, cr4=CR4.PAE | CR4.LA57, cpl=3, pkru=0x5555_5554)
    assert cpu.describe() == (
        "CR0    0x8005_0033  PE MP ET NE WP AM PG\n"
        "CR3    0x2a5_c000  root table at 0x2a5_c000\n"
        "CR4    0x1020  PAE LA57\n"
        "EFER   0xd00  LME LMA NXE\n"
        "RFLAGS 0x2  ONE\n"
        "PKRU   0x5555_5554\n"
        "PKRS   0x0\n"
        "CPL    3\n"
        "5 levels, 40 bits of physical address"
    )
