"""Labels, constants, modes, and jumps that reach."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.asm import assemble
from harness.errors import AssemblyError

HIGH = 0xFFFF_8000_0000_0000


def code(source: str, base: int = 0x1000, bits: int = 64) -> str:
    return assemble(source, base=base, bits=bits).code.hex()


@pytest.mark.parametrize(
    ("source", "base", "made"),
    [
        ("mov rax, x\nx:", 0x1000, "48c7c007100000"),
        ("mov rax, x\nx:", HIGH, "48b80a000000" + "0080ffff"),
        ("mov rax, x\nx:", 0x8000_0000, "48b80a00008000000000"),
        ("mov eax, x\nx:", 0x8000_0000, "b805000080"),
        ("mov rax, offset x\nx:", 0x1000, "48c7c007100000"),
        ("lea rax, [rip + x]\nnop\nx:", HIGH, "488d050100000090"),
        ("lea rax, [x]\nnop\nx:", HIGH, "488d050100000090"),
        ("mov rax, [x]\nx:", HIGH, "488b0500000000"),
        ("mov byte ptr [x], 1\nx:", HIGH, "c6050000000001"),
        ("mov rax, gs:[x - x + 8]\nx:", 0, "65488b042508000000"),
        ("mov rax, [rbx + x - y]\ny: nop\nx:", HIGH, "488b430190"),
        ("mov rax, [rip + 8]", HIGH, "488b0508000000"),
        ("x: jmp x", HIGH, "ebfe"),
        ("jmp $", 0x1000, "ebfe"),
        ("jmp . + 2", 0x1000, "eb00"),
        ("mov ecx, end - begin\nbegin: nop\nnop\nend:", 0x1000, "b9020000009090"),
    ],
)
def test_labels(source: str, base: int, made: str) -> None:
    assert code(source, base) == made


def test_a_jump_may_wrap_around_the_address_space() -> None:
    assert code("jmp 0x10", base=0xFFFF_FFFF_FFFF_FF00) == "e90b010000"
    assert code("jmp 0xfffffff0", base=0, bits=32) == "ebee"


def test_jumps_become_long_only_where_they_must() -> None:
    for gap, size in ((127, 2), (128, 5)):
        assert len(assemble(f"jmp x\n.space {gap}\nx:", base=0).code) == gap + size
    for gap, size in ((126, 2), (127, 5)):
        assert len(assemble(f"x: .space {gap}\njmp x", base=0).code) == gap + size
    assert code("jz x\n.space 128\nx:").startswith("0f8480000000")


@pytest.mark.parametrize(("gap", "jump"), [(124, 2), (125, 5)])
def test_one_long_jump_makes_another_long(gap: int, jump: int) -> None:
    # At 125 only the second jump is out of reach, until it grows and pushes a away.
    program = assemble(f"jmp a\njmp b\n.space {gap}\na: .space 3\nb:", base=0)
    assert len(program.code) == 2 * jump + gap + 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("loop x\n.space 128\nx:", "loop must reach its target within 128 bytes"),
        ("jrcxz x\n.space 128\nx:", "jrcxz must reach its target within 128 bytes"),
        ("jmp short x\n.space 128\nx:", "jmp must reach its target within 128 bytes"),
        ("jmp -5", "a jump target must be a 64-bit address, not -0x5"),
        ("jcxz 0x1000", "jcxz must not stand in 64-bit code"),
        ("x: nop\nx: nop", "a label must be defined once, and x already is at k.asm:1"),
        ("rax: nop", "a label must not have a register's name, rax"),
        ("mov rax, nope", "a name must be defined, and nope is not"),
        ("table: mov rax, tabel", "and tabel is not; is table meant?"),
        ("mov rax, N\n.equ N, 1", "a constant must be defined above its use, and N is below"),
        (".equ N, 1\n.equ N, 2", ".equ must define N once; use .set for what changes"),
        (".equ N, 1\nN: nop", "a label must have a name of its own, and N is a constant"),
        (".equ rax, 1", "a constant must not be called rax"),
        (". = 5", "a constant must not be called .; use .org to move on"),
        (".equ N", ".equ must be followed by a name, a comma and an expression"),
        ("jmp 1f\n1b:", "1f must have a label 1: below it"),
        ("jmp 1b\n1:", "1b must have a label 1: above it"),
        ("mov rax, rbx + 1", "a register must not stand in an expression: rbx"),
        (".code32\nmov rax, 1", "Keystone must accept the statement"),
        (".code64 5", ".code64 must stand alone"),
        (".space x\nx:", "must settle"),
    ],
)
def test_refused(source: str, reason: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(source, base=0x1000, file="k.asm")
    assert reason in str(caught.value)


def test_the_first_error_by_line_is_reported() -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble("mov rax, a\nmov rax, b\n", base=0)
    assert caught.value.line == 1


def test_local_labels_belong_to_the_label_above() -> None:
    source = """
    one:
    .loop: jmp .loop
    .Lshared: nop
    two:
    .loop: jmp .loop
        jmp one.loop
        jmp .Lshared
    """
    program = assemble(source, base=0)
    assert program.code.hex() == "ebfe90ebfeebf9ebf9"
    assert program.labels == {"one": 0, "one.loop": 0, ".Lshared": 2, "two": 3, "two.loop": 3}


def test_numeric_labels() -> None:
    assert code("1: nop\n1: jmp 1b\njmp 1f\n1: jmp 1b") == "90ebfeeb00ebfe"


def test_constants_may_change_and_may_need_addresses() -> None:
    source = """
    n = 1
    .byte n
    n = n + 1
    .set n, n * 8
    .byte n, size
    size = 3
    """
    with pytest.raises(AssemblyError, match="size is below"):
        assemble(source, base=0)
    program = assemble("a: nop\nnop\n.equ size, end - a\n.byte size\nend:", base=0x1000)
    assert program.code.hex() == "909003"
    assert program.constants == {"size": 3}


def test_constants_from_outside() -> None:
    assert assemble("mov al, N", base=0, constants={"N": 5}).code.hex() == "b005"
    with pytest.raises(AssemblyError, match="N must not be set here"):
        assemble(".equ N, 6", base=0, constants={"N": 5})
    for name in ("5", "a b", "rax", ""):
        with pytest.raises(AssemblyError, match="a constant must have a name of its own"):
            assemble("", base=0, constants={name: 5})


def test_modes_switch_within_a_program() -> None:
    source = """
    .code32
        inc eax
        ljmp 8:long
    .code64
    long:
        inc eax
    """
    program = assemble(source, base=0x1000)
    assert program.code.hex() == "40ea081000000800ffc0"
    assert [s.bits for s in program.statements if s.is_code] == [32, 32, 64]


def test_bounds() -> None:
    with pytest.raises(AssemblyError, match="bits must be 32 or 64, not 16"):
        assemble("nop", base=0, bits=16)
    with pytest.raises(AssemblyError, match="base must be a 64-bit address"):
        assemble("nop", base=1 << 64)
    with pytest.raises(AssemblyError, match="base must be a 64-bit address"):
        assemble("nop", base=-1)
    assert assemble("nop", base=(1 << 64) - 1).end == 1 << 64
    with pytest.raises(AssemblyError, match="64-bit code must lie below"):
        assemble("nop\nnop", base=(1 << 64) - 1)
    with pytest.raises(AssemblyError, match="32-bit code must lie below 0x1_0000_0000"):
        assemble("nop", base=1 << 32, bits=32)


def test_an_empty_program() -> None:
    program = assemble("", base=0x1000)
    assert (program.code, program.statements, program.listing()) == (b"", (), "")


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_every_jump_lands_on_its_label(data: st.DataObject) -> None:
    """Random blocks far and near, jumping to each other in a random order: decode and follow."""
    import capstone

    count = data.draw(st.integers(2, 8))
    order = data.draw(st.permutations(range(count)))
    following = dict(itertools.pairwise([*order, order[0]]))
    gaps = data.draw(st.lists(st.integers(0, 160), min_size=count, max_size=count))
    words = data.draw(
        st.lists(st.sampled_from(["jmp", "jz", "call", "jnbe"]), min_size=count, max_size=count)
    )
    source = "".join(
        f"b{n}: {words[n]} b{following[n]}\n.space {gaps[n]}\n.align {1 << (n % 4)}\n"
        for n in range(count)
    )
    base = data.draw(st.sampled_from([0, 0x1000, HIGH, (1 << 64) - 0x1000]))
    program = assemble(source, base=base)
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    for n in range(count):
        start = program.labels[f"b{n}"]
        insn = next(engine.disasm(program.code[start - base :], start))
        target = insn.operands[0].imm % (1 << 64)
        assert target == program.labels[f"b{following[n]}"]
