"""A kernel's file without its debug sections, as bootloader 0.9 embeds it.

0.9 runs ``llvm-objcopy --strip-debug`` over the kernel before it becomes a part of the disk image:
DWARF does not become RAM. What the program headers describe stays where it is; of the rest, the
sections that are left move together behind it, and the section headers follow them.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

__all__ = ["strip_debug"]

_DEBUG: Final = (".debug", ".zdebug", ".gdb_index", ".stab", ".gnu.debuglink", ".gnu_debuglink")
_ALLOCATED: Final = 2
_HEADER: Final = 64


def strip_debug(data: bytes) -> bytes:
    """Return the bytes of an ELF file without debug sections; all of them where it has none.

    A section table that is damaged leaves the file as it is: a loader does not need it.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(BytesIO(data))
        sections = list(elf.iter_sections())
        loaded = [(part["p_offset"], part["p_filesz"]) for part in elf.iter_segments()]
        found = [
            (one.name, one["sh_type"], one["sh_flags"], one["sh_offset"], one["sh_size"],
             one["sh_addralign"])
            for one in sections
        ]  # fmt: skip
    except (ELFError, ValueError, OverflowError, KeyError, UnicodeDecodeError, AttributeError,
            TypeError, AssertionError):  # fmt: skip
        return data
    if not any(name.startswith(_DEBUG) for name, *_ in found):
        return data
    table = elf["e_phoff"] + elf["e_phnum"] * elf["e_phentsize"]
    keep = [table, *(at + size for at, size in loaded if size)]
    keep += [
        at + size
        for _, kind, flags, at, size, _ in found
        if flags & _ALLOCATED and kind != "SHT_NOBITS"
    ]
    end = max(keep)
    if end > len(data):
        return data
    made = bytearray(data[:end])
    kept = 0
    for name, kind, flags, at, size, align in found:
        if name.startswith(_DEBUG):
            continue
        kept += 1
        if flags & _ALLOCATED or kind in ("SHT_NOBITS", "SHT_NULL") or at + size > len(data):
            continue
        made += bytes(-len(made) % max(1, align))
        made += data[at : at + size]
    made += bytes(-len(made) % 8)
    made += bytes(kept * _HEADER)
    return bytes(made) if len(made) <= len(data) else data
