"""What went wrong, in one line for stderr."""

from __future__ import annotations

from typing import Final

__all__ = ["sentence"]

_LINE: Final = 2000


def sentence(error: BaseException) -> str:
    """Return an exception's message on one line of reasonable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LINE else f"{text[:_LINE]}..."
