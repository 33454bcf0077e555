"""Source text to one flat run of statements: comments, includes, macros, repeats, conditions.

What comes out is what the passes place in memory: labels, constants, directives and instructions,
each with the file and line that it came from. A statement made by a macro carries the place of
the *invocation*, because that is where its author looks, and names the macro line in ``inside``.

``.if``, ``.rept`` and macro arguments are decided here, before anything has an address, so their
expressions may use constants but not labels.

What can go wrong: a missing or circular include, bytes that are not UTF-8, a block without its
end, a macro that never stops, a repeat that would fill the machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.asm.expression import NAME, Constants, evaluate, unescape
from harness.asm.refusal import Refusal
from harness.errors import AssemblyError

__all__ = [
    "MAX_STATEMENTS",
    "Line",
    "assignment",
    "comment_behind",
    "expand",
    "fail",
    "quoted",
    "read_source",
    "split_arguments",
]

MAX_STATEMENTS = 1 << 19
_MAX_NESTING = 40
_MAX_LINE = 20_000

_LABEL = re.compile(rf"\s*({NAME}|[0-9]+)\s*:")
_ASSIGNMENT = re.compile(rf"({NAME})\s*=(?!=)\s*(.*)", re.DOTALL)
_QUOTED = r'"(?:\\.|[^"\\\n])*"' + r"|'(?:\\[^\n]|[^'\\\n])[^'\n]?[^'\n]?'"
_STRIP = re.compile(rf"({_QUOTED})|/\*.*?\*/|(?:;|\#|//)[^\n]*", re.DOTALL)
_QUIET = frozenset({".globl", ".global", ".text", ".intel_syntax"})


@dataclass(frozen=True, slots=True)
class Line:
    """One label or one statement, and where it came from.

    :ivar text: the statement without label and comment; empty for a label.
    :ivar label: the label defined here, or None.
    :ivar source: the line as its author wrote it.
    :ivar inside: " (in macro NAME, FILE:LINE)" for what a macro made.
    """

    file: str
    number: int
    text: str
    source: str
    label: str | None = None
    inside: str = ""

    @property
    def word(self) -> str:
        """The directive or mnemonic, in lower case."""
        return self.text.split(None, 1)[0].lower() if self.text else ""

    @property
    def rest(self) -> str:
        """What follows the first word."""
        parts = self.text.split(None, 1)
        return parts[1].strip() if len(parts) == 2 else ""


def fail(line: Line, reason: str, made: str | None = None) -> AssemblyError:
    """Make the error for a line: the reason, the statement, and what Keystone made of it."""
    text = " ".join((line.text or line.source).split())
    shown = text if len(text) <= 120 else text[:117] + "..."
    made_of_it = f"; Keystone made `{made}` of it" if made else ""
    return AssemblyError(
        f"`{shown}`{line.inside}: {reason}{made_of_it}",
        file=line.file,
        line=line.number,
        statement=text,
        made=made,
    )


def read_source(path: Path) -> str:
    """Read a source file.

    :raises AssemblyError: when it cannot be read, or is not UTF-8 text.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AssemblyError(f"a source file must be readable: {reason}", file=str(path)) from None
    return _decode(data, str(path))


def _decode(data: bytes, file: str) -> str:
    """Decode UTF-8, or say on which line it stops being text."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AssemblyError(
            f"assembly source must be UTF-8 text, not byte {data[error.start]:#04x}",
            file=file,
            line=data.count(b"\n", 0, error.start) + 1,
        ) from None


def comment_behind(source: str) -> str | None:
    """Return the comment that a ``;`` begins on a line, without the ``;``; None without one."""
    if ";" in source:
        for match in _STRIP.finditer(source):
            if match[1] is None and match[0][0] == ";":
                return match[0][1:]
    return None


def quoted(text: str) -> str:
    """Return the content of a quoted string.

    :raises Refusal: when it is not one quoted string.
    """
    text = text.strip()
    if not re.fullmatch(r'"(?:\\.|[^"\\])*"', text):
        raise Refusal(f'a text must be quoted, "like this", not {text or "nothing"}')
    return unescape(text[1:-1])


def split_arguments(text: str) -> list[str]:
    """Split at commas that stand outside brackets and quotes."""
    if not text.strip():
        return []
    parts: list[str] = []
    depth, start = 0, 0
    for match in re.finditer(rf"{_QUOTED}|[\[\](),]", text):
        mark = match[0]
        if mark in "([":
            depth += 1
        elif mark in ")]":
            depth -= 1
        elif mark == "," and depth <= 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return parts


def expand(
    text: str, file: str, constants: Mapping[str, int], include_path: Sequence[Path]
) -> list[Line]:
    """Return the statements of a source text, everything included, repeated and expanded.

    :param constants: values known from outside.
    :param include_path: folders searched after the including file's own.
    :raises AssemblyError: with the file and line.
    """
    expander = _Expander(constants, include_path)
    expander.run(_lines(text, file), (file,))
    return expander.output


def _lines(text: str, file: str) -> list[Line]:
    def blank(match: re.Match[str]) -> str:
        return match[1] or " " + "\n" * match[0].count("\n")

    sources = text.replace("\r\n", "\n").split("\n")
    stripped = _STRIP.sub(blank, text.replace("\r\n", "\n")).split("\n")
    found: list[Line] = []
    for number, (line, source) in enumerate(zip(stripped, sources, strict=True), 1):
        if len(line) > _MAX_LINE:
            raise AssemblyError(
                f"a line must have at most {_MAX_LINE} characters, not {len(line)}",
                file=file,
                line=number,
            )
        if "\0" in line:
            raise AssemblyError(
                "assembly source must be text, not hold NUL bytes", file=file, line=number
            )
        if line.strip():
            found += _split_labels(Line(file, number, line.strip(), source.rstrip()))
    return found


def _split_labels(line: Line) -> list[Line]:
    found: list[Line] = []
    text, source = line.text, line.source
    while match := _LABEL.match(text):
        text = text[match.end() :].strip()
        in_source = _LABEL.match(source)
        source = source[in_source.end() :] if in_source else source
        found.append(replace(line, text="", source=f"{match[1]}:", label=match[1]))
    if text:
        found.append(replace(line, text=text, source=source if found else line.source))
    return found


@dataclass(slots=True)
class _Macro:
    name: str
    parameters: list[tuple[str, str | None]]
    body: list[Line]


@dataclass(slots=True)
class _Expander:
    known: Mapping[str, int]
    include_path: Sequence[Path]
    output: list[Line] = field(default_factory=list)
    macros: dict[str, _Macro] = field(default_factory=dict)
    constants: dict[str, int | None] = field(init=False)
    scope: Constants = field(init=False)
    expansions: int = 0
    depth: int = 0
    work: int = 0

    def __post_init__(self) -> None:
        self.constants = dict(self.known)
        self.scope = Constants(self.constants)

    def run(self, lines: Sequence[Line], files: tuple[str, ...]) -> None:
        self.depth += 1
        if lines and self.depth > _MAX_NESTING:
            raise fail(lines[0], f"macros and blocks must nest at most {_MAX_NESTING} deep")
        position = 0
        while position < len(lines):
            line = lines[position]
            self.count(line)
            try:
                position = self.step(lines, position, files)
            except Refusal as refusal:
                raise fail(line, refusal.reason) from None
        self.depth -= 1

    def count(self, line: Line) -> None:
        self.work += 1
        if self.work > MAX_STATEMENTS:
            raise fail(line, f"a program must have at most {MAX_STATEMENTS} statements")

    def step(self, lines: Sequence[Line], position: int, files: tuple[str, ...]) -> int:
        line = lines[position]
        word = line.word
        if word in _BLOCKS:
            end = _block_end(lines, position)
            self.block(line, lines[position + 1 : end], files)
            return end + 1
        if word in _STRAYS:
            raise Refusal(f"{word} must close a block, and none is open")
        if line.label is not None:
            self.output.append(line)
        else:
            self.simple(line, word, files)
        return position + 1

    def simple(self, line: Line, word: str, files: tuple[str, ...]) -> None:
        if word in (".include", "include"):
            self.include(line, files)
        elif word == ".purgem":
            self.macros.pop(line.rest, None)
        elif word in (".error", ".err"):
            raise Refusal(quoted(line.rest) if line.rest else "the source says stop")
        elif word == ".exitm":
            raise Refusal(".exitm is not known here; use .if around the rest")
        elif word in _QUIET:
            pass
        elif word in self.macros:
            self.invoke(self.macros[word], line, files)
        else:
            name_and_value = assignment(line)
            if name_and_value:
                self.assign(*name_and_value)
            self.output.append(line)

    def assign(self, name: str, expression: str) -> None:
        try:
            self.constants[name] = evaluate(expression, self.scope).number
        except Refusal:  # it needs an address: the passes know it
            self.constants[name] = None

    def include(self, line: Line, files: tuple[str, ...]) -> None:
        name = quoted(line.rest)
        including = Path(line.file)
        folders = [including.parent] if not line.file.startswith("<") else []
        for folder in [*folders, *self.include_path]:
            path = folder / name
            if _is_file(path):
                break
        else:
            looked = ", ".join(str(folder) for folder in [*folders, *self.include_path])
            raise Refusal(f"an included file must exist in {looked or 'the include path'}")
        if any(_same(path, file) for file in files):
            chain = " -> ".join([*files, str(path)])
            raise Refusal(f"a file must not include itself: {chain}")
        self.run(_lines(read_source(path), str(path)), (*files, str(path)))

    def block(self, line: Line, body: Sequence[Line], files: tuple[str, ...]) -> None:
        word = line.word
        if word == ".macro":
            self.define(line, list(body))
        elif word == ".rept":
            count = evaluate(line.rest, self.scope).number
            if not 0 <= count <= MAX_STATEMENTS:
                raise Refusal(f"a repeat count must be between 0 and {MAX_STATEMENTS}, not {count}")
            for _ in range(count if body else 0):
                self.run(body, files)
        else:
            chosen = self.choose(line, body)
            if chosen:
                self.run(chosen, files)

    def choose(self, line: Line, body: Sequence[Line]) -> Sequence[Line]:
        taken: list[Line] = []
        take = self.condition(line)
        done, closed, depth = take, False, 0
        for inner in body:
            word = inner.word
            if depth == 0 and word in (".else", ".elseif"):
                if closed:
                    raise fail(inner, f"{word} must not follow .else")
                closed = word == ".else"
                try:
                    take = not done and (closed or bool(evaluate(inner.rest, self.scope).number))
                except Refusal as refusal:
                    raise fail(inner, refusal.reason) from None
                done = done or take
                continue
            depth += (word in _BLOCKS and word.startswith(".if")) - (word == ".endif")
            if take:
                taken.append(inner)
        return taken

    def condition(self, line: Line) -> bool:
        if line.word == ".if":
            return bool(evaluate(line.rest, self.scope).number)
        if not re.fullmatch(NAME, line.rest):
            raise Refusal(f"{line.word} must be followed by one name, not {line.rest!r}")
        return (line.rest in self.constants) == (line.word == ".ifdef")

    def define(self, line: Line, body: list[Line]) -> None:
        head = re.match(rf"({NAME})\s*,?\s*(.*)", line.rest, re.DOTALL)
        if not head:
            raise Refusal("a macro must have a name: .macro NAME a, b=0")
        parameters: list[tuple[str, str | None]] = []
        for part in split_arguments(head[2]) if "," in head[2] else head[2].split():
            name, equals, default = part.partition("=")
            if not re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
                raise Refusal(f"a macro parameter must be a name, not {part!r}")
            parameters.append((name.strip(), default.strip() if equals else None))
        self.macros[head[1].lower()] = _Macro(head[1], parameters, body)

    def invoke(self, macro: _Macro, line: Line, files: tuple[str, ...]) -> None:
        given = split_arguments(line.rest)
        names = [name for name, _ in macro.parameters]
        if len(given) > len(names):
            raise Refusal(f"{macro.name} must get at most {len(names)} arguments, not {len(given)}")
        values = dict(macro.parameters)
        values.update(zip(names, given, strict=False))
        self.expansions += 1
        expansion = str(self.expansions)

        def substitute(match: re.Match[str]) -> str:
            if match[1] == "@":
                return expansion
            if match[1] == "()":
                return ""
            if match[1] not in values:
                return match[0]
            value = values[match[1]]
            if value is None:
                raise Refusal(f"{macro.name} must get its argument {match[1]}")
            return value

        body: list[Line] = []
        for inner in macro.body:
            text = re.sub(r"\\(@|\(\)|[A-Za-z_]\w*)", substitute, inner.text)
            if len(text) > _MAX_LINE:
                raise Refusal(f"a line must have at most {_MAX_LINE} characters, not {len(text)}")
            inside = f" (in macro {macro.name}, {inner.file}:{inner.number})"
            source = text or inner.source
            inside = line.inside or inside
            made = Line(line.file, line.number, text, source, inner.label, inside)
            body += _split_labels(made) if text else [made]
        if body:
            self.run(body, files)


_IFS = (".if", ".ifdef", ".ifndef")
_BLOCKS = {".macro": ".endm", ".rept": ".endr", **dict.fromkeys(_IFS, ".endif")}
_STRAYS = {".endm", ".endr", ".endif", ".else", ".elseif"}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a NUL in it
        return False


def _same(path: Path, file: str) -> bool:
    try:
        return path.samefile(file)
    except (OSError, ValueError):
        return False


def _block_end(lines: Sequence[Line], start: int) -> int:
    opener = lines[start].word
    closer = _BLOCKS[opener]
    depth = 0
    for position in range(start + 1, len(lines)):
        word = lines[position].word
        if _BLOCKS.get(word) == closer:
            depth += 1
        elif word == closer:
            if depth == 0:
                return position
            depth -= 1
    raise Refusal(f"{opener} must be closed by {closer}")


def assignment(line: Line) -> tuple[str, str] | None:
    """Return the name and expression of ``.equ``, ``.set`` or ``=``, or None.

    :raises Refusal: when the name is none.
    """
    if line.word in (".equ", ".set"):
        parts = split_arguments(line.rest)
        if len(parts) != 2 or not re.fullmatch(NAME, parts[0]):
            raise Refusal(f"{line.word} must be followed by a name, a comma and an expression")
        return parts[0], parts[1]
    match = _ASSIGNMENT.fullmatch(line.text)
    return (match[1], match[2]) if match else None
