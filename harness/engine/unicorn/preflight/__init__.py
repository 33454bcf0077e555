"""What Unicorn's CPU leaves out of an instruction, looked at before the instruction is executed.

Unicorn 2.1.4 executes some instructions with the wrong rights, without a check that the manual
asks for, or without one of their accesses (docs/instructions.md). Before one of these a run stops,
and :func:`preflight` makes the missing access or check. It then raises what a CPU would raise, says
that this engine cannot go on, or lets Unicorn execute the instruction after all.
"""

from harness.engine.unicorn.preflight.checks import (
    NEEDS,
    Go,
    Unable,
    harmless,
    need_of,
    preflight,
)

__all__ = ["NEEDS", "Go", "Unable", "harmless", "need_of", "preflight"]
