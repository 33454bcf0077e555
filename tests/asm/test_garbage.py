"""Bad input is one sentence and never a traceback, a hang or a dead process."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.asm import assemble, assemble_file
from harness.errors import AssemblyError

GOOD = """\
.equ PAGE, 1 << 12
.macro load reg, value=0
  mov \\reg, \\value
.endm
start:
.code32
  load eax, 5
  lgdt [table]
  ljmp 8:long
.code64
long: mov rax, qword ptr gs:[rbx + rcx*8 - 16]
  lea rdi, [rip + table]
1: rep stosq
  jnz 1b
.if PAGE == 4096
  lock cmpxchg [rdi], rdx
.endif
.rept 3
  nop
.endr
.align 8
table: .quad PAGE | 3, $ - start
.asciz "text; with # signs"
"""

WORDS = (
    "mov lea push jmp call ret rep lock byte word dword qword ptr rax eax al ah r8 r8b fs: gs: [ ] "
    "( ) + - * , : ; # 1 0x80 -1 0xffffffffffffffff 1f 1b $ . .equ .set .rept .endr .macro .endm "
    ".if .else .endif .org .align .quad .byte .ascii .code32 .code64 .include x x: 1: = << / % ~ "
    "\\x \\@ short far data16 addr32 rex xacquire movsd xlatb offset \"a\" 'a' \n"
)


def attempt(source: str, bits: int = 64) -> None:
    error: AssemblyError | None = None
    try:
        assemble(source, base=0x1000, bits=bits, file="g.asm")
    except AssemblyError as caught:
        error = caught
    if error:
        assert str(error).startswith("g.asm:")
        assert "\n" not in str(error)
        assert error.line is not None
        assert 1 <= error.line <= source.count("\n") + 1


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80))
@example("\ufeffnop")
@example("\x1c\x85\u2028nop foo")
def test_any_text(source: str) -> None:
    attempt(source)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(WORDS.split(" ")), max_size=14), st.sampled_from([32, 64]))
def test_any_words(words: list[str], bits: int) -> None:
    attempt(" ".join(words), bits)


@pytest.mark.parametrize("seed", range(150))
def test_damaged_source(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    data = bytearray(GOOD.encode())
    for _ in range(rng.randint(1, 6)):
        where = rng.randrange(len(data))
        change = rng.randrange(3)
        if change == 0:
            data[where] ^= 1 << rng.randrange(8)
        elif change == 1:
            del data[where : where + rng.randint(1, 10)]
        else:
            data[where:where] = data[rng.randrange(len(data)) :][: rng.randint(1, 20)]
    path = tmp_path / "g.asm"
    path.write_bytes(data)
    message = f"{path}:"
    try:
        assemble_file(path, base=0x1000)
    except AssemblyError as error:
        message = str(error)
    assert message.startswith(f"{path}:")
    assert "\n" not in message


def test_binary_files(tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "g.asm"
    for size in (1, 10, 1000, 100_000):
        path.write_bytes(rng.randbytes(size))
        with pytest.raises(AssemblyError):
            assemble_file(path, base=0)


BOMBS = [
    ".rept 524288\n.zero 1 << 26\n.endr",
    ".macro m a\n m (\\a+\\a)\n.endm\nm 1",
    "x = 1\n.rept 200\nx = x * x + 1\n.endr\n.quad x",
    ".quad " + "1+" * 20_000 + "1",
    ".quad " + "1," * 9_000 + "1",
    "mov rax, [" + "rax+" * 4000 + "1]",
    "jmp " + "(" * 9000,
]


@pytest.mark.parametrize("source", BOMBS, ids=range(len(BOMBS)))
def test_bombs(source: str) -> None:
    started = time.monotonic()
    attempt(source)
    assert time.monotonic() - started < 20
