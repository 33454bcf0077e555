"""Every guest kernel holds what its header says, and says enough."""

from pathlib import Path

import pytest

from harness.engine.run import Budget
from harness.kernels import Kernel, read_kernel
from harness.resources import asm_dir

KERNELS = sorted(asm_dir().glob("*.asm"))
LECTURE = {
    "active-level-4-table",
    "translate-4k-only",
    "translate-offset",
    "translate-recursive",
    "recursion-levels",
    "temporary-mapping",
    "temporary-limit",
    "fixed-offset",
    "map-to",
    "identity-conflict",
    "tlb-stale",
    "tlb-fills",
}


def test_every_trick_of_the_lecture_has_its_kernel() -> None:
    assert {path.stem for path in KERNELS} >= LECTURE


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_the_kernel_passes_by_its_header(path: Path) -> None:
    result = read_kernel(path).run()
    assert result.passed, result.failures


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_the_header_names_the_file_and_expects_something(path: Path) -> None:
    kernel = read_kernel(path)
    name, _, title = kernel.title.partition(": ")
    assert name == path.stem
    assert title
    assert kernel.prose
    assert kernel.expected


# One change to each kernel after which it must not pass: what is left out is what it proves.
BROKEN = {
    "active-level-4-table": ("add rax, rdi", ""),
    "translate-4k-only": ("jne none", "jz none"),
    "translate-offset": ("cmp r10d, 1\n    jne no_level_1", "test al, 1\n    jz unmapped"),
    "translate-recursive": ("sar rax, 16                     // the slot", "shr rax, 16 //"),
    "recursion-levels": ("invlpg [rdi]\n    mov r8, [rdi]", "mov r8, [rdi]"),
    "temporary-mapping": ("+ 9 * 8], PML4", "+ 9 * 8], LEVEL_3"),
    "temporary-limit": ("LEVEL_1 + 8 * 8], LEVEL_1", "LEVEL_1 + 9 * 8], LEVEL_1"),
    "fixed-offset": ("mov [rbx], rax\n    invlpg", "invlpg"),
    "map-to": ("call update_flags", "xor eax, eax"),
    "identity-conflict": ("call is_free\n    jc page_is_free", "call is_free"),
    "tlb-stale": ("mov cr3, r15\n    mov r11", "mov r11"),
    "tlb-fills": ("and qword ptr [rbp], ~ACCESSED\n    mov rax, [rdi]", "mov rax, [rdi]"),
}
INCLUDES = {
    # what goes wrong: the include, what to change in it, into what, the kernels that must notice
    "forgets invlpg after unmapping": (
        "map-temporarily.inc",
        "    invlpg [rax]\n",
        "",
        ("temporary-mapping",),
    ),
    "lends the table's own entry": (
        "map-temporarily.inc",
        "    cmp qword ptr [rsi + rax * 8], UNUSED\n",
        "    cmp eax, r8d\n",
        ("temporary-limit",),
    ),
    "forgets invlpg after update_flags": (
        "map-to.inc",
        "    mov [rbx], rcx\n    invlpg [rdi]\n",
        "    mov [rbx], rcx\n",
        ("map-to",),
    ),
    "forgets invlpg after unmap": (
        "map-to.inc",
        "    mov qword ptr [rbx], 0\n    invlpg [rdi]\n",
        "    mov qword ptr [rbx], 0\n",
        ("map-to",),
    ),
    "does not link new tables": (
        "map-to.inc",
        "    mov [rbx], rax\n    lea rdi, [rax + r15]",
        "    lea rdi, [rax + r15]",
        ("map-to", "fixed-offset"),
    ),
}


def copied(path: Path, to: Path) -> Path:
    (to / "include").mkdir(exist_ok=True)
    for include in (path.parent / "include").iterdir():
        (to / "include" / include.name).write_text(include.read_text())
    copy = to / path.name
    copy.write_text(path.read_text())
    return copy


def replaced(path: Path, old: str, new: str) -> None:
    source = path.read_text()
    assert source.count(old) == 1, old
    path.write_text(source.replace(old, new))


def failures(path: Path) -> tuple[str, ...]:
    kernel: Kernel = read_kernel(path)
    return kernel.run(budget=Budget(seconds=5)).failures


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_does_not_pass(name: str, tmp_path: Path) -> None:
    path = copied(asm_dir() / f"{name}.asm", tmp_path)
    assert not failures(path)
    replaced(path, *BROKEN[name])
    assert failures(path)


@pytest.mark.parametrize("what", INCLUDES)
def test_a_broken_include_is_noticed(what: str, tmp_path: Path) -> None:
    include, old, new, kernels = INCLUDES[what]
    for name in kernels:
        path = copied(asm_dir() / f"{name}.asm", tmp_path)
        replaced(tmp_path / "include" / include, old, new)
        assert failures(path), name
