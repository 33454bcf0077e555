"""Stop a CPU when its time is over.

Unicorn's own time limit starts a thread for each stretch of guest code, which costs a millisecond
(docs/quirks.md, Unicorn 21). A :class:`Clock` is one thread for a whole run.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from unicorn import Uc

__all__ = ["Clock"]

_AGAIN = 0.01
"""A CPU that was just between two stretches did not hear the first call."""


class Clock:
    """Runs while ``with`` lasts.

    :param seconds: wall time.
    :ivar late: whether it is over.
    """

    def __init__(self, uc: Uc, seconds: float) -> None:
        self._uc = uc
        self._deadline = time.monotonic() + seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._deadline

    def _wait(self) -> None:
        while not self._done.wait(max(_AGAIN, self._deadline - time.monotonic())):
            self._uc.emu_stop()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _t: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
