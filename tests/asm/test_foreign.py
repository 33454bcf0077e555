"""Other assemblers' words, complements, and GNU's own files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.asm import assemble
from harness.asm.foreign import advice
from harness.errors import AssemblyError
from harness.kernels import read_kernel

REPORTS = Path(__file__).parent / "reports"


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("section .text", "`section` is a NASM directive"),
        ("global start", "`global` is a NASM directive"),
        ("db 1, 2", "write .byte"),
        ("times 4 nop", "write .rept"),
        ("%define A 1", "write NAME = 1"),
        ("size equ 5", "write size = 5"),
        ("mov rax, [rel table]", "write [rip + label]"),
        ("cmpeqps xmm0, xmm1", "written cmpps with 0"),
        ("cmpnltsd xmm0, xmm1", "written cmpsd with 5"),
        (".irp x, 1, 2", "must be a .rept"),
        ("cmp rax, 0xffffffff", "32 bits with a sign"),
        ("mov qword ptr [rax], 0x80000000", "32 bits with a sign"),
        ("insb byte ptr [rcx + 4], dx", "must have no operands"),
    ],
)
def test_a_statement_of_elsewhere_is_named(statement: str, told: str) -> None:
    with pytest.raises(AssemblyError, match=r"^<string>:1: ") as caught:
        assemble(statement, base=0)
    assert told in str(caught.value)


def test_what_is_ours_gets_no_advice() -> None:
    assert [advice(text) for text in ("", "mov rax, rbx", ".align 8", "cmpps xmm0, xmm1, 0")] == [
        None
    ] * 4


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("and eax, ~(1 << 31)", "25ffffff7f"),
        ("mov rax, ~((1 << 63) | 0xfff)", "48b800f0ffffffffff7f"),
        (".long -(0xe85250d6 + 0 + 24)", "12afad17"),
        (".byte ~0x80", "7f"),
        (".byte ~0xff", "00"),
        ("and al, ~0x80", "247f"),
        ("mov eax, ~0", "b8ffffffff"),
        (".quad ~0", "ff" * 8),
    ],
)
def test_complements_wrap_to_the_width(statement: str, code: str) -> None:
    assert assemble(statement, base=0).code.hex() == code


@pytest.mark.parametrize(
    "statement", [".byte -129", ".byte ~0x1ff", "mov eax, 0x1ffffffff", "and eax, ~(1 << 33)"]
)
def test_what_does_not_fit_is_still_refused(statement: str) -> None:
    with pytest.raises(AssemblyError):
        assemble(statement, base=0)


@pytest.mark.parametrize(
    "statement", ["vpextrq [ecx], xmm3, 1", "vpinsrq xmm3, xmm1, [ecx], 1", "pextrq [ecx], xmm3, 1"]
)
def test_64_bits_by_a_prefix_stand_in_64_bit_code(statement: str) -> None:
    with pytest.raises(AssemblyError):
        assemble(statement, base=0, bits=32)
    assert assemble(statement.replace("ecx", "rcx"), base=0).code


def test_an_instruction_behind_a_semicolon_is_no_comment() -> None:
    with pytest.raises(AssemblyError, match="`hlt` behind it would be left out"):
        assemble("nop\ncli; hlt", base=0)
    assert assemble("nop ; push the stack\nnop ; halt", base=0).code == b"\x90\x90"


def test_reports() -> None:
    def code(name: str) -> str:
        return read_kernel(REPORTS / name).assemble().code.hex()

    assert code("a10_multiboot2.asm") == "d65052e8000000001800000012afad170000000008000000"
    assert code("a11_not_pg.asm") == "0f20c025ffffff7f0f22c0"
    assert code("a12_not_nx.asm") == "48b800f0ffffffffff7f4821c3"
    for name in ("a03_insb_crash.asm", "a17_vpextrq32.asm", "a26.asm"):
        with pytest.raises(AssemblyError, match=rf"{name}:\d+: "):
            code(name)


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("ld")), reason="no C toolchain")
def test_a_file_of_gnu_goes_through_its_own_tools(tmp_path: Path) -> None:
    assert read_kernel(REPORTS / "a14_cpp.S").assemble().code == b"\xf4"
    kernel = tmp_path / "k.s"
    kernel.write_text(".intel_syntax noprefix\nstart: cli; mov rax, [there]; hlt\nthere: .quad 7\n")
    program = read_kernel(kernel).assemble()
    assert program.labels["start"] == program.base
    result = read_kernel(kernel).run()
    assert (result.passed, result.exit.registers["rax"]) == (True, 7)
    kernel.write_text("nonsense %rax\n")
    with pytest.raises(AssemblyError, match="must accept it: "):
        read_kernel(kernel).assemble()


def test_without_a_toolchain_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(AssemblyError, match="needs cc, which this machine does not have"):
        read_kernel(REPORTS / "a14_cpp.S").assemble()
