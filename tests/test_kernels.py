"""Kernel files: the header, word by word, and that each of its expectations can fail."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.engine.run import Budget
from harness.errors import AssemblyError, InputError
from harness.kernel_header import check_header, page_of
from harness.kernels import Kernel, KernelResult, read_kernel
from harness.resources import asm_dir

KERNELS = sorted(asm_dir().glob("*.asm"))

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a kernel: the lines of its header, then its code."""

    def make(header: str, code: str = "hlt") -> Path:
        path = tmp_path / "kernel.asm"
        lines = ["title", "", *header.strip().splitlines()]
        comments = "\n".join(f"; {line}".rstrip() for line in lines)
        path.write_text(f"{comments}\n\n{code}\n", encoding="utf-8")
        return path

    return make


# Those that ship.


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_a_shipped_kernel_does_what_its_header_says(path: Path) -> None:
    kernel = read_kernel(path)
    result = kernel.run(budget=Budget(seconds=30))
    assert result.failures == ()
    assert result.passed
    assert kernel.expected, "a kernel says what must come out"
    assert kernel.title.startswith(kernel.name), "the title names the file"
    assert len(kernel.prose.split()) > 20, "and tells what it shows"


def test_the_kernels_of_the_issue_ship() -> None:
    assert {path.stem for path in KERNELS} >= {
        *("long-mode", "recursive-pml4", "repair-pte", "three-faults")
    }


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_no_shipped_kernel_passes_when_its_numbers_are_others(path: Path, tmp_path: Path) -> None:
    """Each line of [out] with a number is flipped alone, and fails alone."""
    kernel = read_kernel(path)
    flipped = 0
    for name, value in kernel.expected.items():
        if type(value) is not int:
            continue
        wrong = Kernel(
            path=kernel.path,
            title=kernel.title,
            prose=kernel.prose,
            source=kernel.source,
            machine=kernel.machine,
            inputs=kernel.inputs,
            expected={**kernel.expected, name: value ^ 1},
        )
        failures = wrong.run(budget=Budget(seconds=30)).failures
        assert len(failures) == 1
        assert failures[0].startswith(f"{name} must be ")
        flipped += 1
        if flipped == 2:
            break


# Reading.


def test_the_parts_of_a_file(write: Write) -> None:
    path = write(
        """
It says something
in two lines.

[machine]
ram = "2M"

[in]
rdi = 5
rsi = "here"

[out]
rax = 5
""",
        "here: mov rax, rdi\nhlt",
    )
    kernel = read_kernel(str(path))
    assert (kernel.name, kernel.title, kernel.path) == ("kernel", "title", path)
    assert kernel.prose == "It says something\nin two lines."
    assert kernel.machine == {"ram": "2M"}
    assert kernel.inputs == {"rdi": 5, "rsi": "here"}
    assert kernel.expected == {"rax": 5}
    assert not kernel.protected
    assert "source" not in repr(kernel)
    result = kernel.run()
    assert result.passed
    assert result.exit.registers["rsi"] == 0x10_0000


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "bare.asm"
    path.write_text("hlt\n")
    kernel = read_kernel(path)
    assert (kernel.title, kernel.prose, kernel.expected) == ("bare", "", {})
    assert kernel.run().passed


def test_prose_that_has_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "prose.asm"
    path.write_text("; A title\n; and prose.\nhlt\n")
    kernel = read_kernel(path)
    assert (kernel.title, kernel.prose) == ("A title", "and prose.")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.asm", tmp_path):
        with pytest.raises(InputError) as caught:
            read_kernel(path)
        assert str(caught.value).startswith(f"{path} must be a readable text file: ")
    binary = tmp_path / "binary.asm"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="must be a readable text file"):
        read_kernel(binary)


def test_constants_from_outside_win(write: Write) -> None:
    kernel = read_kernel(write("[out]\nrax = 7", "mov rax, WANTED\nmov rcx, PML4\nhlt"))
    with pytest.raises(AssemblyError):
        kernel.assemble()
    assert kernel.assemble({"WANTED": 7}).constants["WANTED"] == 7
    assert kernel.assemble({"WANTED": 7, "PML4": 9}).constants["PML4"] == 9


# Expectations.

CODE = """
VALUE = 0x42
    mov rax, VALUE
    mov rbx, cr3
    lea rcx, [rip + here]
    mov rdx, -1
    mov [0x200000], rax
    mov dx, 0x3f8
    mov al, 's'
    out dx, al
    mov al, 'd'
    out 0xe9, al
    mov rdi, 0xb8000
    mov byte ptr [rdi + 4], '!'
    mov rax, VALUE
    mov rdx, -1
here:
"""


@pytest.mark.parametrize(
    ("right", "wrong", "failure"),
    [
        ("rax = 0x42", "rax = 0x43", "rax must be 0x43, but is 0x42"),
        ('rax = "VALUE"', "rax = 0", "rax must be 0x0, but is 0x42"),
        ('rbx = "PML4"', 'rbx = "here"', "rbx must be 0x10004b, but is 0x1000"),
        ('rcx = "here"', 'rcx = "VALUE"', "rcx must be 0x42, but is 0x10004b"),
        ("rdx = -1", "rdx = 1", "rdx must be 0x1, but is 0xffffffffffffffff"),
        (
            "rdx = 0xffff_ffff_ffff_ffff",
            "rdx = -2",
            "rdx must be 0xfffffffffffffffe, but is 0xffffffffffffffff",
        ),
        ('serial = "s"', 'serial = "x"', "serial must be 'x', but is 's'"),
        ('debug = "d"', 'debug = ""', "debug must be '', but is 'd'"),
        ('screen = "!"', 'screen = "?"', "the screen must show '?', but shows ['!', '', '']"),
        ("events = []", 'events = ["#PF"]', "events must be ['#PF'], but is []"),
        ('ending = "halt"', 'ending = "exit"', "ending must be 'exit', but is 'halt'"),
        ("", "exit = 1", "exit must be 0x1, but is None"),
        (
            "[out.memory]\n0x200000 = 0x42",
            "[out.memory]\n0x200000 = 0x43",
            "the word at 0x200000 must be 0x43, but is 0x42",
        ),
        (
            '[out.memory]\n0x200000 = "VALUE"',
            '[out.memory]\n0x200001 = "VALUE"',
            "the word at 0x200001 must be 0x42, but is 0x0",
        ),
        ("", "[out.memory]\n0x7000000 = 1", "the word at 0x7000000 must be 0x1, but is not in RAM"),
    ],
)
def test_each_expectation_holds_and_fails(
    write: Write, right: str, wrong: str, failure: str
) -> None:
    result = read_kernel(write(f"[out]\n{right}", f"{CODE}    hlt")).run()
    assert (result.passed, result.failures) == (True, ())
    result = read_kernel(write(f"[out]\n{wrong}", f"{CODE}    hlt")).run()
    here = result.kernel.assemble().labels["here"]
    expected = failure.replace("0x10004b", f"{here:#x}")
    assert (result.passed, result.failures) == (False, (expected,))


def test_the_exit_code(write: Write) -> None:
    code = "mov al, 16\nout 0xf4, al"
    assert read_kernel(write("[out]\nexit = 33", code)).run().passed
    result = read_kernel(write("[out]\nexit = 35", code)).run()
    assert result.failures == ("exit must be 0x23, but is 0x21",)


def test_several_failures_are_all_told(write: Write) -> None:
    result = read_kernel(write("[out]\nrax = 1\nrbx = 2\nrcx = 0")).run()
    assert result.failures == ("rax must be 0x1, but is 0x0", "rbx must be 0x2, but is 0x0")


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("mov rax, [0x70000000]\nhlt", "shutdown"),
        ("again: jmp again", "time-budget"),
        ("sysenter", "unsupported"),
    ],
)
def test_a_kernel_that_neither_halts_nor_exits_fails(write: Write, code: str, ending: str) -> None:
    budget = Budget(seconds=0.2)
    result = read_kernel(write("[out]\nrbx = 0", code)).run(budget=budget)
    assert len(result.failures) == 1
    assert result.failures[0].startswith("it must halt or exit, but ")
    assert read_kernel(write(f'[out]\nending = "{ending}"', code)).run(budget=budget).passed


def test_the_machine_of_a_header(write: Write) -> None:
    kernel = read_kernel(
        write(
            """
[machine]
ram = "4M"
identity = "2M"
levels = 5
recursive = 300
map = [
    { va = 0xffff_8000_0000_0000, pa = 0x20_0000, size = "8K", flags = "WUX" },
    { va = 0x4000_0000, pa = 0, size = "2M", page = "2M" },
]
"""
        )
    )
    result: KernelResult = kernel.run()
    machine = result.machine
    assert result.passed
    assert machine.memory.size == 4 << 20
    assert machine.cpu.levels == 5
    assert machine.walk(0x20_0000).pa is None
    walk = machine.walk(0xFFFF_8000_0000_1008)
    assert walk.rights is not None
    assert (walk.pa, walk.rights.user, walk.rights.executable) == (0x20_1008, True, False)
    assert machine.walk(0x4000_1000).pa == 0x1000
    assert machine.memory.read_u64(machine.cpu.root + 8 * 300) & ~0xFFF == machine.cpu.root


def test_protected_mode(write: Write) -> None:
    kernel = read_kernel(
        write('[machine]\nmode = "protected"\nram = "2M"\n[out]\nrax = 17', "mov eax, cr0\nhlt")
    )
    assert kernel.protected
    assert kernel.run().passed


# Bad headers.

BAD = [
    ("[machine", "the header must be TOML from its first [table] on: "),
    ("[machine]\nram = 1\nram = 2", "the header must be TOML from its first [table] on: "),
    ("[foo]\na = 1", "the header's tables must be machine, in and out, not 'foo'"),
    ("[[machine]]\nram = 1", "[machine] must be one table, not [{'ram': 1}]"),
    (
        "[machine]\nfoo = 1",
        "[machine] must hold only identity, levels, map, mode, ram, recursive, not 'foo'",
    ),
    ("[in]\neax = 1", "[in] must hold only r10, "),
    ("[out]\neax = 1", "[out] must hold only debug, ending, events, exit, memory, r10, "),
    ('[machine]\nmode = "real"', '[machine] mode must be "long" or "protected", not \'real\''),
    ("[machine]\nmode = 64", '[machine] mode must be "long" or "protected", not 64'),
    ("[machine]\nlevels = 3", "[machine] levels must be 4 or 5, not 3"),
    ('[machine]\nlevels = "4"', "[machine] levels must be 4 or 5, not '4'"),
    ("[machine]\nlevels = true", "[machine] levels must be 4 or 5, not True"),
    (
        '[machine]\nram = "1T"',
        "[machine] ram: a size must be a number of bytes, or end in K, M or G, not '1T'",
    ),
    ("[machine]\nram = true", "[machine] ram: a size must be a number of bytes, or end in"),
    ("[machine]\nram = [4]", "[machine] ram: a size must be a number of bytes, or end in"),
    ("[machine]\nidentity = -1", "[machine] identity must not be negative, as -1 is"),
    ("[machine]\nrecursive = 512", "[machine] recursive must be a slot from 0 to 511, not 512"),
    ('[machine]\nrecursive = "x"', "[machine] recursive must be a slot from 0 to 511, not 'x'"),
    ("[machine]\nrecursive = true", "[machine] recursive must be a slot from 0 to 511, not True"),
    ("[machine]\nmap = 5", "[machine] map must be a list of tables, not 5"),
    ("[machine]\nmap = [5]", "[machine] map number 1 must be a table, not 5"),
    ("[machine]\nmap = [{va = 0}]", "[machine] map number 1 must have a key 'pa'"),
    (
        "[machine]\nmap = [{va = 0, pa = 0, size = 4096, x = 1}]",
        "[machine] map number 1 must hold only flags, pa, page, size, va, not 'x'",
    ),
    (
        '[machine]\nmap = [{va = "0", pa = 0, size = 4096}]',
        "[machine] map number 1: va must be an address, a number from 0 to 2**64 - 1, not '0'",
    ),
    (
        '[machine]\nmap = [{va = 0, pa = 0, size = 4096, page = "8K"}]',
        '[machine] map number 1: page: page must be "4K", "2M" or "1G", not \'8K\'',
    ),
    (
        "[machine]\nmap = [{va = 0, pa = 0, size = 4096, flags = 3}]",
        "[machine] map number 1: flags must be text in quotes, not 3",
    ),
    (
        '[machine]\nmode = "protected"\nlevels = 5',
        "[machine] levels must be left out in protected mode, where the kernel makes its page "
        "tables itself",
    ),
    (
        "[in]\nrax = 1.5",
        "[in] rax must be a number that fits in 64 bits, or the name of a label or constant, "
        "not 1.5",
    ),
    ("[in]\nrax = 0x1_0000_0000_0000_0000", "[in] rax must be a number that fits in 64 bits"),
    ("[in]\nrax = true", "[in] rax must be a number that fits in 64 bits"),
    ('[in]\nrax = ""', "[in] rax must be a number that fits in 64 bits"),
    ("[out]\nrax = [1]", "[out] rax must be a number that fits in 64 bits"),
    ('[out]\nending = "over"', '[out] ending must be "halt", "exit", "stop", "shutdown", '),
    ('[out]\nexit = "1"', "[out] exit must be a number, not '1'"),
    ("[out]\nserial = 5", "[out] serial must be text in quotes, not 5"),
    ("[out]\nscreen = [1]", "[out] screen must be text in quotes, not [1]"),
    ('[out]\nevents = "#PF"', '[out] events must be a list such as ["#PF", "#BP"], not \'#PF\''),
    ("[out]\nevents = [14]", '[out] events must be a list such as ["#PF", "#BP"], not [14]'),
    ("[out]\nmemory = 5", "[out] memory must be a table of words by physical address, not 5"),
    (
        "[out.memory]\nfoo = 1",
        "[out] memory must have physical addresses as its keys, not 'foo'",
    ),
    (
        "[out.memory]\n0x1000 = [1]",
        "[out] memory 0x1000 must be a number that fits in 64 bits",
    ),
]


@pytest.mark.parametrize(("header", "message"), BAD, ids=[header for header, _ in BAD])
def test_a_bad_header_is_one_sentence(write: Write, header: str, message: str) -> None:
    path = write(header)
    with pytest.raises(InputError) as caught:
        read_kernel(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: {message}")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ('[in]\nrax = "nowhere"', ": 'nowhere' in the header must be a label or constant of "),
        ('[out]\nrax = "nowhere"', ": 'nowhere' in the header must be a label or constant of "),
        ("[machine]\nram = 5", ": [machine]: a region of RAM must be made of whole 4 KiB frames"),
        ("[machine]\nram = 0", ": [machine]: a region of RAM must not be empty"),
        ('[machine]\nram = "4K"', ": [machine]: a physical access must stay inside RAM"),
        ("[machine]\nidentity = 5", ": [machine]: the size must be a multiple of the page size"),
        ("[machine]\nrecursive = 0", ": [machine]: recursive slot 0 must be free"),
        (
            '[machine]\nmap = [{va = 0, pa = 0, size = "4K"}]',
            ": [machine]: 0x0 must not be mapped yet",
        ),
        (
            '[machine]\nmap = [{va = 0x8000_0000, pa = 0, size = "4K", flags = "Q"}]',
            ": [machine]: flags must be letters of W, U, X and G, not 'Q'",
        ),
    ],
)
def test_what_cannot_be_built_is_one_sentence(write: Write, header: str, message: str) -> None:
    path = write(header)
    with pytest.raises(InputError, match=re.escape(f"{path}{message}")) as caught:
        read_kernel(path).run()
    assert "\n" not in str(caught.value)


def test_pages() -> None:
    assert [page_of(letter).value for letter in ("4K", "2M", "1G")] == [
        *(1 << 12, 1 << 21, 1 << 30)
    ]
    check_header({})


def test_a_kernel_without_an_instruction_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.asm"
    path.write_text("; nothing here\n")
    with pytest.raises(InputError, match=r"empty\.asm must hold at least one instruction"):
        read_kernel(path).run()
