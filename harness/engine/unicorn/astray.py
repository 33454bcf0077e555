"""Find the instruction that led the CPU to an address that is not canonical.

Unicorn 2.1.4 raises #GP behind a near jump, where a CPU raises it at the jump, before anything has
changed (SDM 2A JMP, 2B RET). Far transfers, returns of the system and calls are looked at before
they are executed (:mod:`.preflight`).
"""

from __future__ import annotations

from harness.engine.unicorn.core import Core
from harness.engine.unicorn.decoded import LONGEST, Decoded, decode

__all__ = ["back_to_jump"]

_RSP = 4
_MASK = (1 << 64) - 1


def back_to_jump(core: Core, block: tuple[int, int] | None) -> bool:
    """Put the CPU back before the jump that ended a block, if one did.

    A CPU that has run off the last canonical address stays where it is: its fetch raises #GP there.

    :param block: address and size of the last block that was executed.
    :returns: False when it is not known how the CPU came here.
    """
    if block is None:
        return False
    core.save()
    rip = core.q[core.at.rip // 8]
    start, size = block
    end = start + size & _MASK
    jump = _last(core.fetch(start, size), start)
    if jump is None:
        return False
    if jump.name == "ret":
        core.q[core.at.registers // 8 + _RSP] -= 8 + (jump.immediate() or 0)
    elif jump.name != "jmp" and (jump.name[0] != "j" or rip == end):
        return rip == end
    core.q[core.at.rip // 8] = jump.at
    core.restore()
    return True


def _last(code: bytes, at: int) -> Decoded | None:
    found = None
    while code:
        found = decode(code[:LONGEST], at)
        if found is None:
            return None
        at, code = found.after, code[len(found.code) :]
    return found
