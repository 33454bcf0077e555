"""Variations about protection keys: another key, no key, the key of a table."""

from __future__ import annotations

from collections.abc import Iterator

from harness.check.cause.variation import (
    Edit,
    Variation,
    clearing,
    deciding,
    entry_words,
    spans,
    with_registers,
)
from harness.entry import PageTableFlags
from harness.walker import Walk

__all__ = ["of_keys"]

_PS = int(PageTableFlags.HUGE_PAGE)
_KEY = 0xF << 59


def of_keys(walk: Walk) -> Iterator[Variation]:
    page = deciding(walk)
    if page.leaf is None:
        page = walk
    leaf = page.leaf
    if leaf is None or not (walk.cpu.pke or walk.cpu.pks):
        return
    key = leaf.raw >> 59 & 15
    for step in page.steps[:-1]:
        other = step.raw >> 59 & 15
        if other != key or walk.second is not None:
            words = f"the key were {other}, as in {entry_words(walk, step.level)}"
            yield Variation(("KEY",), "of-table", words, step.level, edits=_key_of(step.level))
    for register, rule in (("pkru", "PKU"), ("pkrs", "PKS")):
        for bit, name in ((0, "AD"), (1, "WD")):
            value = getattr(walk.cpu, register)
            now = 0 if value >> 2 * key + bit & 1 else 1
            flipped = value | 1 << 2 * key + bit if now else value & ~(0x5555_5555 << bit)
            cpu = with_registers(walk, **{register: flipped})
            if cpu is not None:
                yield Variation(
                    (rule,),
                    f"{name}-{'assumed' if now else 'ignored'}",
                    f"{register.upper()}.{name} of key {key} were {now}",
                    cpu=cpu,
                )
    for other in range(16):
        if other != key:
            words = f"the key were {other}"
            edit = _with_key(other)
            also = (("KEY", "wrong", None),)
            yield Variation(("KEY",), "wrong", words, leaf.level, also, edits={leaf.level: edit})
    if spans(walk):  # to a page whose key may be another one
        for bit in range(59, 63):
            words = f"bit {bit} of every key were 0"
            yield Variation(("KEY",), "wrong", words, edits=_without_key_bit(1 << bit))


def _without_key_bit(mask: int) -> dict[int, Edit]:
    """Clear a bit of the key of every page, of whatever size."""

    def big(raw: int) -> int:
        return raw & ~mask if raw & _PS else raw

    return {3: big, 2: big, 1: clearing(mask)}


def _key_of(level: int) -> dict[int, Edit]:
    """Take every page's key from the entry of a level, which is read before the page's own."""
    read = [0]

    def note(raw: int) -> int:
        read[0] = raw & _KEY
        return raw

    def leaf(raw: int) -> int:
        return raw & ~_KEY | read[0]

    def big(raw: int) -> int:
        return leaf(raw) if raw & _PS else raw

    edits: dict[int, Edit] = {level: note, **dict.fromkeys(range(level - 1, 1, -1), big)}
    return {**edits, 1: leaf}


def _with_key(key: int) -> Edit:
    return lambda raw: raw & ~_KEY | key << 59
