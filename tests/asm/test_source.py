"""Comments, includes, macros, repeats and conditions; where errors say they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.asm import assemble, assemble_file
from harness.errors import AssemblyError


def code(source: str, **constants: int) -> str:
    return assemble(source, base=0x1000, constants=constants).code.hex()


@pytest.mark.parametrize(
    "source",
    [
        "nop ; halt",
        "nop # hlt",
        "nop // hlt",
        "/* hlt\n hlt */ nop",
        "nop /* a */",
        "\n\n  nop\r\n",
        ".globl start\n.intel_syntax noprefix\n.text\nnop",
    ],
)
def test_comments(source: str) -> None:
    assert code(source) == "90"


def test_a_comment_sign_in_a_text_is_text() -> None:
    assert code(".ascii \"a;b#c//d/*e*/\"\n.byte ';', '#'") == b"a;b#c//d/*e*/;#".hex()


def test_block_comments_keep_line_numbers() -> None:
    assert error("/*\n\n*/\nfoo").line == 4


def error(source: str, **constants: int) -> AssemblyError:
    with pytest.raises(AssemblyError) as caught:
        assemble(source, base=0x1000, file="k.asm", constants=constants)
    return caught.value


def test_macro_arguments_defaults_and_unique_labels() -> None:
    source = """
    .macro put reg, value=7
    again\\@:
        mov \\reg, \\value
        jmp again\\@
    .endm
    put al
    put bl, (1, 2)[0]
    """
    assert "(1, 2)" in str(error(source))
    assert code(source.replace("(1, 2)[0]", "9")) == "b007ebfcb309ebfc"


def test_macro_concatenation_and_nesting() -> None:
    source = """
    .macro inner n
        .byte 0x\\n\\()0
    .endm
    .macro outer a b
        inner \\a
        inner \\b
    .endm
    outer 1, 2
    """
    assert code(source) == "1020"


def test_an_error_in_a_macro_is_at_its_invocation() -> None:
    found = error("nop\n.macro bad x\nnop\npush \\x\n.endm\nnop\nbad 0x112233445566\n")
    assert (found.file, found.line, found.statement) == ("k.asm", 7, "push 0x112233445566")
    assert "(in macro bad, k.asm:4)" in str(found)


def test_repeat_counts() -> None:
    assert code(".set i, 0\n.rept 3\n.byte i\n.set i, i + 1\n.endr") == "000102"
    assert code(".rept 2\n.rept 2\n.byte 1\n.endr\n.byte 2\n.endr") == "010102010102"


@pytest.mark.parametrize(
    ("slot", "made"),
    [(511, "01"), (510, "02"), (0, "03")],
)
def test_conditions(slot: int, made: str) -> None:
    source = """
    .if SLOT == 511
      .byte 1
      .if 0
        .byte 9
      .else
      .endif
    .elseif SLOT == 510
      .byte 2
    .else
      .byte 3
    .endif
    """
    assert code(source, SLOT=slot) == made


def test_ifndef_gives_a_default() -> None:
    source = ".ifndef N\n.equ N, 5\n.endif\n.ifdef N\n.byte N\n.endif"
    assert code(source) == "05"
    assert code(source, N=6) == "06"


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("nop\n.rept 2\nnop", 2, ".rept must be closed by .endr"),
        ("nop\n.endr", 2, ".endr must close a block, and none is open"),
        (".macro m\nnop", 1, ".macro must be closed by .endm"),
        (".if 1\nnop", 1, ".if must be closed by .endif"),
        (".if 1\n.else\n.else\n.endif", 3, ".else must not follow .else"),
        (".rept x\nnop\n.endr\nx:", 1, "a name must be a constant defined above"),
        (".rept -1\nnop\n.endr", 1, "a repeat count must be between 0 and 524288, not -1"),
        (".rept 1 << 40\nnop\n.endr", 1, "a repeat count must be between 0 and 524288"),
        (".macro m\nm\n.endm\nm", 4, "macros and blocks must nest at most 40 deep"),
        (".macro m a\n.byte \\a\n.endm\nm 1, 2", 4, "m must get at most 1 arguments, not 2"),
        (".macro m a\n.byte \\a\n.endm\nm", 4, "m must get its argument a"),
        (".macro 5\n.endm", 1, "a macro must have a name"),
        (".macro m 5\n.endm", 1, "a macro parameter must be a name, not '5'"),
        (".ifdef 5\n.endif", 1, ".ifdef must be followed by one name, not '5'"),
        ('.error "not here"', 1, "not here"),
        (".include nope", 1, 'a text must be quoted, "like this", not nope'),
        ("a\0b", 1, "assembly source must be text, not hold NUL bytes"),
        ("x" * 30_000, 1, "a line must have at most 20000 characters, not 30000"),
    ],
)
def test_refused(source: str, line: int, reason: str) -> None:
    found = error(source)
    assert (found.file, found.line) == ("k.asm", line)
    assert reason in str(found)


def test_repeats_of_repeats_are_bounded() -> None:
    found = error(".rept 500000\n.rept 500000\nnop\n.endr\n.endr")
    assert str(found) == "k.asm:3: `nop`: a program must have at most 524288 statements"


def test_macros_that_double_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.asm.source.MAX_STATEMENTS", 10_000)
    levels = [".macro m0\nnop\n.endm"]
    levels += [f".macro m{n}\nm{n - 1}\nm{n - 1}\n.endm" for n in range(1, 35)]
    assert "at most" in str(error("\n".join(levels) + "\nm34"))


def test_arguments_that_grow_are_bounded() -> None:
    found = error(".macro m a\n m \\a,\n.endm\n.macro n a\nn (\\a + \\a)\n.endm\nn 1")
    assert "at most" in str(found)


# --- files ---


def test_include_is_beside_the_including_file(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.asm").write_text('include "b.asm"\n')
    (tmp_path / "lib" / "b.asm").write_text(".byte 2\nlabel:\n")
    (tmp_path / "k.asm").write_text('.byte 1\n.include "lib/a.asm"\n.byte 3\n')
    program = assemble_file(tmp_path / "k.asm", base=0)
    assert program.code == b"\1\2\3"
    assert program.labels["label"] == 2
    assert program.statements[1].file == str(tmp_path / "lib" / "b.asm")


def test_include_path(tmp_path: Path) -> None:
    (tmp_path / "c.asm").write_text(".equ FIVE, 5\n")
    assert assemble('.include "c.asm"\n.byte FIVE', base=0, include_path=[tmp_path]).code == b"\5"


def test_an_error_in_an_included_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "bad.asm").write_text("nop\nfoo\n")
    (tmp_path / "k.asm").write_text('.include "bad.asm"\n')
    with pytest.raises(AssemblyError) as caught:
        assemble_file(tmp_path / "k.asm", base=0)
    assert (caught.value.file, caught.value.line) == (str(tmp_path / "bad.asm"), 2)


def test_include_cycle(tmp_path: Path) -> None:
    (tmp_path / "a.asm").write_text('.include "b.asm"\n')
    (tmp_path / "b.asm").write_text('nop\n.include "../' + tmp_path.name + '/a.asm"\n')
    with pytest.raises(AssemblyError, match="a file must not include itself: ") as caught:
        assemble_file(tmp_path / "a.asm", base=0)
    assert (caught.value.file, caught.value.line) == (str(tmp_path / "b.asm"), 2)


@pytest.mark.parametrize("name", ["nope.asm", ".", "x" * 5000, "a\\0b"])
def test_missing_include(tmp_path: Path, name: str) -> None:
    (tmp_path / "k.asm").write_text(f'.include "{name}"\n')
    with pytest.raises(AssemblyError, match="an included file must exist in "):
        assemble_file(tmp_path / "k.asm", base=0)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "k.asm"
    path.write_bytes(b"nop\nnop \xff\n")
    with pytest.raises(AssemblyError, match="must be UTF-8 text, not byte 0xff") as caught:
        assemble_file(path, base=0)
    assert (caught.value.file, caught.value.line) == (str(path), 2)


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(AssemblyError, match="must be readable: No such file"):
        assemble_file(tmp_path / "nope.asm", base=0)
    with pytest.raises(AssemblyError, match="must be readable: "):
        assemble_file("a\0b", base=0)
