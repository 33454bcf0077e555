"""Keystone is only shown hexadecimal numbers: it was once seen to take a decimal one for such."""

import re

import pytest

from harness.asm import assemble, encode


def test_no_decimal_number_reaches_keystone(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    real = encode._keystone

    def spy(text: str, bits: int, address: int = 0) -> bytes:
        shown.append(text)
        return real(text, bits, address)

    monkeypatch.setattr(encode, "_keystone", spy)
    encode._encode_anywhere.cache_clear()
    assemble(
        "mov word ptr [rdx + 4], 0xee00\nadd rax, -4608\nand ebx, 0xfffff000\nmov rcx, [rdi + 4608]"
        "\nadd cx, 40000\ncmp byte ptr [rsi - 100], 200",
        base=0x1000,
    )
    assert len(shown) >= 6
    for text in shown:
        assert not re.search(r"(?<![\w*])\d{2,}", text), text
