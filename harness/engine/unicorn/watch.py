"""Stop a run before each instruction that needs a look (:mod:`.preflight`).

Unicorn tells of every block of code that it translates, before the block is executed: its
instructions are decoded, and a hook is put on those that need a look. What a guest writes over its
own code is translated, and so decoded, again. Blocks note themselves as they begin, by a few bytes
of machine code, so that the jump which led the CPU astray can be found afterwards.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

from unicorn import UC_HOOK_BLOCK, UC_HOOK_CODE, UC_HOOK_EDGE_GENERATED, Uc
from unicorn import x86_const as x86

from harness.engine.unicorn.core import Core, Scratch
from harness.engine.unicorn.decoded import Decoded, decode
from harness.engine.unicorn.library import LIB
from harness.engine.unicorn.preflight import harmless, need_of

__all__ = ["Watch"]

_LA57 = 1 << 12
_NOTE_BLOCK = bytes.fromhex("488931 48895108 c3".replace(" ", ""))
"""Host code of a block hook: mov [rcx], rsi; mov [rcx + 8], rdx; ret."""
_MOST_HOOKS = 2048
_TWO_BLOCKS = bytes.fromhex("eb0090")
"""A jump to a nop."""


class Watch:
    """Watches one CPU's runs.

    :ivar stopped: the instruction that the CPU stands before and the check that it needs; None
        when something else has stopped it.
    :ivar idle: do not stop now.
    """

    def __init__(self, core: Core, scratch: Scratch) -> None:
        self._core = core
        self._hooks: dict[int, int] = {}
        self._needs: dict[int, tuple[Decoded, str]] = {}
        self._let: int | None = None
        self._translated: tuple[int, int] | None = None
        self.stopped: tuple[Decoded, str] | None = None
        self.idle = False
        core.uc.hook_add(UC_HOOK_EDGE_GENERATED, self._on_block_translated)
        self._page = mmap.mmap(-1, 0x1000, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(_NOTE_BLOCK)
        self._code = ctypes.c_char.from_buffer(self._page)
        self._block = (ctypes.c_uint64 * 2)()
        handle = ctypes.c_size_t()
        LIB.uc_hook_add(
            core.handle,
            ctypes.byref(handle),
            UC_HOOK_BLOCK,
            ctypes.c_void_p(ctypes.addressof(self._code)),
            ctypes.c_void_p(ctypes.addressof(self._block)),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )

        self._run_once(scratch)

    def _run_once(self, scratch: Scratch) -> None:
        """Execute code of the engine's own: a CPU's blocks are told of from the second one on."""
        core, at = self._core, self._core.layout.scratch + Scratch.CODE
        end = Scratch.CODE + len(_TWO_BLOCKS)
        kept = scratch.bytes[Scratch.CODE : end].tobytes()
        scratch.put(Scratch.CODE, _TWO_BLOCKS)
        core.uc.emu_start(at, at + len(_TWO_BLOCKS))
        scratch.put(Scratch.CODE, kept)
        core.uc.ctl_flush_tb()
        core.power_on()

    def begin(self) -> None:
        """Forget the run before."""
        self._let, self._translated, self.stopped, self.idle = None, None, None, False
        self._block[:] = [0, 0]

    def take(self) -> tuple[bool, tuple[Decoded, str] | None]:
        """Say whether this has stopped the CPU, and before which instruction."""
        translated, stopped = self._translated, self.stopped
        self._translated, self.stopped = None, None
        if translated is not None:
            self._translate_again(*translated)
        return translated is not None or stopped is not None, stopped

    def let(self, at: int) -> None:
        """Let the instruction at an address be executed next."""
        self._let = at

    def last_block(self) -> tuple[int, int] | None:
        """Return address and size of the last block that began; None before the first."""
        start, size = self._block
        return (int(start), int(size)) if size else None

    def _on_block_translated(self, uc: Uc, block: Any, _before: Any, _data: Any) -> None:
        if self.idle:
            return
        core = self._core
        long = core.in_64_bit_code
        levels = 5 if uc.reg_read(x86.UC_X86_REG_CR4) & _LA57 else 4
        code = core.fetch(block.pc, block.size)
        at, new = block.pc, False
        for _ in range(block.icount):
            found = decode(code[:15], at, long)
            if found is None:
                break
            need = need_of(found, levels)
            if need is not None:
                self._needs[at] = found, need
                if at not in self._hooks:
                    new = True
                    self._hook(at)
            else:
                self._needs.pop(at, None)
            at, code = found.after, code[len(found.code) :]
        if new:
            self._translated = block.pc, block.size
            uc.emu_stop()

    def _translate_again(self, at: int, size: int) -> None:
        """Let a block be translated with its hooks."""
        uc = self._core.uc
        if len(self._hooks) < _MOST_HOOKS:
            uc.ctl_remove_cache(at, at + size)
            return
        for handle in self._hooks.values():
            uc.hook_del(handle)
        self._hooks.clear()
        uc.ctl_flush_tb()

    def _hook(self, at: int) -> None:
        self._hooks[at] = self._core.uc.hook_add(
            UC_HOOK_CODE, self._on_instruction, begin=at, end=at
        )

    def _on_instruction(self, uc: Uc, at: int, _size: int, _data: Any) -> None:
        if self.idle or at not in self._needs:
            return
        if self._let == at:
            self._let = None
            return
        self._let = None
        instruction, need = self._needs[at]
        if harmless(uc, instruction, need):
            return
        self.stopped = instruction, need
        uc.emu_stop()
