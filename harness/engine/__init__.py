"""The CPUs that judge.

>>> from harness.memory import PhysicalMemory
>>> from harness.cpu import CpuState
>>> with open_engine("unicorn", PhysicalMemory(0x20_0000)) as engine:
...     engine.probe(CpuState(cr3=0x1000), 0x4000).error_code
0

``base`` says what a CPU must offer, ``capabilities`` what it can be asked, ``open`` how one is
opened, ``conformance`` proves that one does its duties. ``steps`` and ``run`` are what engines are
asked and answer. :mod:`harness.engine.unicorn` is the CPU that is always there.
"""

from harness.engine.base import Engine
from harness.engine.capabilities import Capabilities
from harness.engine.open import ENGINES, WALKER, open_engine

__all__ = ["ENGINES", "WALKER", "Capabilities", "Engine", "open_engine"]
