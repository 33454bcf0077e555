"""Placing statements: passes over the program until every label stays where it is.

Keystone has no symbol table, so it never sees a label. Each pass walks the statements from the
base address, gives labels the address they fall on, evaluates every expression with the labels
known so far (those further down: as of the pass before) and encodes. Jumps start short and never
shrink again once they had to be long, so the passes settle. The last pass changes no address, and
so each of its bytes was made and checked at its final place.

An error in a pass that is not the last may be the fault of a guess: it counts only when the
statement does not depend on a label, or when the addresses have settled.
"""

from __future__ import annotations

import bisect
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.asm.directives import MAX_BYTES, data
from harness.asm.encode import encode
from harness.asm.expression import Value, evaluate
from harness.asm.foreign import advice, hidden_instruction
from harness.asm.instruction import is_register, parse
from harness.asm.program import Labels, Program, Statement
from harness.asm.refusal import Refusal
from harness.asm.source import Line, assignment, comment_behind, fail
from harness.errors import AssemblyError

__all__ = ["place"]

_MAX_PASSES = 60


def _failed(line: Line, refusal: Refusal) -> AssemblyError:
    """Make the error of a refused statement: what another assembler's is named as one."""
    told = advice(line.text)
    return fail(line, told) if told else fail(line, refusal.reason, refusal.made)


def _check_comment(line: Line) -> None:
    """Refuse ``cli; hlt``: the second instruction would be left out."""
    comment = comment_behind(line.source) if line.text else None
    hidden = hidden_instruction(comment) if comment else None
    if hidden is not None:
        raise fail(
            line,
            f"`;` begins a comment, so that `{hidden}` behind it would be left out: put it on a "
            "line of its own, or begin the comment with //",
        )


def place(
    lines: Sequence[Line], base: int, bits: int, constants: Mapping[str, int], file: str
) -> Program:
    """Give every statement its address and bytes.

    :raises AssemblyError: naming the first statement that will not do.
    """
    layout = _Layout([_Item(line) for line in lines], base, bits, dict(constants))
    for _ in range(_MAX_PASSES):
        error = layout.run()
        if layout.is_settled:
            if error:
                raise error
            return layout.program()
    raise error or AssemblyError(
        f"the sizes of a program must settle, and did not in {_MAX_PASSES} passes: "
        "something's size depends on itself",
        file=file,
    )


@dataclass(slots=True)
class _Item:
    line: Line
    code: bytes = b""
    address: int = 0
    bits: int = 64
    is_final: bool = False  # the bytes depend on no address
    is_code: bool = False
    wide: bool = False


@dataclass(slots=True)
class _Layout:
    items: list[_Item]
    base: int
    start_bits: int
    given: dict[str, int]
    label_items: dict[str, int] = field(default_factory=dict)
    numeric: dict[int, list[int]] = field(default_factory=dict)
    parents: dict[int, str] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    before: dict[int, int] = field(default_factory=dict)  # label item -> address, last pass
    now: dict[int, int] = field(default_factory=dict)
    constants: dict[str, tuple[Value, bool]] = field(default_factory=dict)
    parent: str = ""
    position: int = 0
    address: int = 0
    bits: int = 64
    touched: bool = False
    is_settled: bool = False

    def __post_init__(self) -> None:
        parent = ""
        for position, item in enumerate(self.items):
            _check_comment(item.line)
            label = item.line.label
            if label is None:
                if item.line.word in (".equ", ".set") or "=" in item.line.text:
                    self.declare(item.line)
                continue
            if label.isdigit():
                self.numeric.setdefault(int(label), []).append(position)
                continue
            if is_register(label):
                raise fail(item.line, f"a label must not have a register's name, {label}")
            if label == "." or label in self.given:
                raise fail(item.line, f"a label must have a name of its own, not {label}")
            if label.startswith(".") and not label.startswith(".L"):
                label = parent + label
            else:
                parent = label
            self.parents[position] = label
            if label in self.label_items:
                first = self.items[self.label_items[label]].line
                raise fail(
                    item.line,
                    f"a label must be defined once, and {label} already is at "
                    f"{first.file}:{first.number}",
                )
            self.label_items[label] = position
        for name in self.assigned & self.label_items.keys():
            line = self.items[self.label_items[name]].line
            raise fail(line, f"a label must have a name of its own, and {name} is a constant")

    def declare(self, line: Line) -> None:
        try:
            pair = assignment(line)
        except Refusal as refusal:
            raise fail(line, refusal.reason) from None
        if pair is None:
            return
        name = pair[0]
        if is_register(name) or name == ".":
            raise fail(line, f"a constant must not be called {name}; use .org to move on")
        if name in self.given:
            raise fail(
                line,
                f"{name} must not be set here, for it is given from outside; "
                f"put .ifndef {name} before it to make this its default",
            )
        if line.word == ".equ" and name in self.assigned:
            raise fail(line, f".equ must define {name} once; use .set for what changes")
        self.assigned.add(name)

    # --- the scope of expressions ---

    def symbol(self, name: str) -> Value:
        if name in self.constants:
            value, touched = self.constants[name]
            self.touched = self.touched or touched
            return value
        for full in (self.parent + name, name) if name.startswith(".") else (name,):
            if full in self.label_items:
                return self.label(self.label_items[full])
        if is_register(name):
            raise Refusal(f"a register must not stand in an expression: {name}")
        if name in self.assigned:
            raise Refusal(f"a constant must be defined above its use, and {name} is below")
        known = [*self.label_items, *self.constants]
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; is {close[0]} meant?" if close else ""
        raise Refusal(f"a name must be defined, and {name} is not{hint}")

    def near(self, number: int, forward: bool) -> Value:
        places = self.numeric.get(number, [])
        after = bisect.bisect_left(places, self.position)
        chosen = after if forward else after - 1
        if not 0 <= chosen < len(places):
            side = "below" if forward else "above"
            raise Refusal(
                f"{number}{'f' if forward else 'b'} must have a label {number}: {side} it"
            )
        return self.label(places[chosen])

    def label(self, position: int) -> Value:
        self.touched = True
        # Further down and never seen: as near as can be, so that jumps start short.
        default = self.before.get(position, self.address)
        return Value(self.now.get(position, default), is_address=True)

    def here(self) -> Value:
        self.touched = True
        return Value(self.address, is_address=True)

    # --- one pass ---

    def run(self) -> AssemblyError | None:
        self.before, self.now = self.now, {}
        self.constants = {name: (Value(number), False) for name, number in self.given.items()}
        self.address, self.bits, self.parent = self.base, self.start_bits, ""
        error: AssemblyError | None = None
        for position, item in enumerate(self.items):
            self.position = position
            item.address, item.bits = self.address, self.bits
            self.touched = False
            try:
                self.step(item)
            except Refusal as refusal:
                found = _failed(item.line, refusal)
                if not self.touched:
                    raise found from None
                error = error or found
            self.address += len(item.code)
            self.check_bounds(item)
        self.is_settled = self.now == self.before
        return error

    def check_bounds(self, item: _Item) -> None:
        if self.address - self.base > MAX_BYTES:
            raise fail(
                item.line,
                f"a program must be at most {MAX_BYTES >> 20} MiB, "
                f"not {self.address - self.base:#x} bytes so far",
            )
        if item.code and self.address > 1 << item.bits:
            raise fail(
                item.line,
                f"{item.bits}-bit code must lie below {1 << item.bits:#_x}, not at "
                f"{item.address:#_x}",
            )

    def step(self, item: _Item) -> None:
        line = item.line
        if line.label is not None:
            self.now[self.position] = self.address
            self.parent = self.scope_name(line.label)
            return
        if item.is_final:
            return
        word = line.word
        if word in (".code32", ".code64"):
            if line.rest:
                raise Refusal(f"{word} must stand alone")
            self.bits = int(word[5:])
            item.bits = self.bits
            return
        pair = assignment(line)
        if pair:
            value = evaluate(pair[1], self)
            self.constants[pair[0]] = (value, self.touched)
            return
        if word.startswith("."):
            item.code = data(word, line.rest, self)
            item.is_final = not self.touched
            return
        item.is_code = True
        insn = parse(line.text, self)
        encoding = encode(insn, self.bits, self.address, wide=item.wide)
        item.code = encoding.code
        item.is_final = not self.touched and not encoding.relative
        item.wide = item.wide or (encoding.wide and (self.touched or encoding.relative))

    def scope_name(self, label: str) -> str:
        if label.isdigit() or (label.startswith(".") and not label.startswith(".L")):
            return self.parent
        return label

    # --- the result ---

    def program(self) -> Program:
        statements = tuple(
            Statement(
                item.address,
                item.code,
                item.line.source,
                item.line.file,
                item.line.number,
                item.bits,
                item.line.label,
                item.is_code,
            )
            for item in self.items
        )
        return Program(
            self.base,
            b"".join(item.code for item in self.items),
            Labels({name: self.now[position] for name, position in self.label_items.items()}),
            {name: value.number for name, (value, _) in self.constants.items()},
            statements,
        )
