"""What the translating kernels of ``asm/`` translated, next to what their host twins say.

Those kernels take an array of virtual addresses, at their label ``addresses``, and leave an array
of physical ones at ``results``, all ones for None.

>>> show_translations(stage, result, twin)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness.address import format_address
from harness.lecture.chapter import Stage

if TYPE_CHECKING:
    from harness.kernels import KernelResult

__all__ = ["show_translations"]

_NONE = (1 << 64) - 1


def show_translations(
    stage: Stage,
    result: KernelResult,
    twin: Callable[[int], int | None],
    names: Mapping[int, str] | None = None,
) -> None:
    """Show each address with its translation, and compare all with the host's.

    :param twin: translates an address on the host; None where nothing is mapped.
    :param names: what lies at an address.
    """
    memory = result.machine.memory
    labels = result.kernel.assemble().labels
    count = (labels["results"] - labels["addresses"]) // 8
    asked = [memory.read_u64(labels["addresses"] + 8 * i) for i in range(count)]
    asked = asked[: int(result.kernel.inputs["rdx"])]
    got = [memory.read_u64(labels["results"] + 8 * i) for i in range(len(asked))]
    lines = []
    for va, pa in zip(asked, got, strict=True):
        shown = "None" if pa == _NONE else format_address(pa)
        lines.append(
            f"{format_address(va):>23} ─► {shown:<14} {(names or {}).get(va, '')}".rstrip()
        )
    stage.picture("translate_addr on the CPU", "\n".join(lines))
    predicted = [twin(va) for va in asked]
    stage.check(
        "each as the host's mapper translates it",
        said=["None" if pa == _NONE else pa for pa in got],
        predicted=predicted,
    )
