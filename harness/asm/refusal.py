"""The one internal exception of the assembler: a statement that will not do, and why.

The parser, the encoder and the checker know the statement but not where it stands; they raise
:class:`Refusal`, and :mod:`harness.asm.passes` turns it into an
:class:`~harness.errors.AssemblyError` with file and line::

    raise Refusal("an immediate must fit 8 bits, not 0x100")
"""

from __future__ import annotations

__all__ = ["Refusal"]


class Refusal(Exception):
    """A statement cannot be assembled as written.

    :ivar reason: what must hold, then what was given.
    :ivar made: what Keystone made of the statement, when it was asked.
    """

    def __init__(self, reason: str, made: str | None = None) -> None:
        self.reason = reason
        self.made = made
        super().__init__(reason)
