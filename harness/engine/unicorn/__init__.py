"""The default engine: Unicorn 2.1, whose MMU and CPU are QEMU 5.0.1's TCG.

Its quirks stay in this package. ``library`` and ``calibrate`` make the hidden CPU state readable,
``core`` is one CPU over the project's memory, ``probe`` asks it one access at a time, ``batch``
thousands in one run with the ``hooks``, ``run`` executes a kernel and ``deliver`` takes its
exceptions to the guest's own IDT, which Unicorn never does; ``ports``, ``stack`` and ``state`` are
parts of a run.
"""

from harness.engine.unicorn.engine import UnicornEngine

__all__ = ["UnicornEngine"]
