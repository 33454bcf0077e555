"""Engines by name."""

from __future__ import annotations

import pytest

from harness.engine.loading import opener
from harness.errors import InputError
from harness.memory import PhysicalMemory


def test_opens_one_of_ours() -> None:
    memory = PhysicalMemory(0x20_0000)

    engine = opener("unicorn")(memory)

    assert engine.name == "unicorn"
    assert engine.memory is memory
    engine.close()


def test_opens_what_a_dotted_path_names() -> None:
    engine = opener("harness.engine:open_engine")(PhysicalMemory(0x20_0000))

    assert engine.name == "unicorn"
    engine.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "bochs",
            "the engine must be one of unicorn, or package.module:function, not 'bochs'",
        ),
        ("no.such.module:open", "the engine no.such.module:open must be there to be opened: "),
        ("harness.engine:missing", "the engine harness.engine:missing must be there to be opened"),
        (":open", "the engine :open must be there to be opened"),
        ("harness.engine:ENGINES", "the engine harness.engine:ENGINES must be a function"),
    ],
)
def test_refuses_what_is_none(name: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        opener(name)

    assert str(refused.value).startswith(message)
