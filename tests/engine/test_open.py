"""One way to open an engine: what a spec names, and every way in which an engine can be broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.cpu import CpuState
from harness.engine import Engine, open_engine
from harness.engine.open import engine_identity
from harness.engine.unicorn import UnicornEngine
from harness.errors import EngineBroken, EngineError, EngineMissing, InputError
from harness.memory import PhysicalMemory

OWN = "from harness.engine.unicorn import UnicornEngine\n"


@pytest.fixture
def memory() -> PhysicalMemory:
    return PhysicalMemory(0x20_0000)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, in which modules of a test's own lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", ".")])
    return tmp_path


def own(here: Path, name: str, text: str) -> str:
    """Write a module into the current directory, and return the spec of its ``CPU``."""
    (here / f"{name}.py").write_text(OWN + text)
    return f"{name}:CPU"


def test_opens_one_of_ours(memory: PhysicalMemory) -> None:
    with open_engine("unicorn", memory) as engine:
        assert (engine.name, engine.spec) == ("unicorn", "unicorn")
        assert engine.memory is memory


def test_opens_what_a_dotted_path_names(memory: PhysicalMemory) -> None:
    spec = "harness.engine.unicorn:UnicornEngine"
    with open_engine(spec, memory) as engine:
        assert isinstance(engine, UnicornEngine)
        assert (engine.name, engine.spec) == ("unicorn", spec)


def test_the_current_directory_is_importable_for_that_alone(
    here: Path, memory: PhysicalMemory
) -> None:
    spec = own(here, "engine_that_lies_here", "CPU = UnicornEngine\n")
    before = list(sys.path)
    with open_engine(spec, memory) as engine:
        assert engine.spec == spec
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("abacus", "the engine must be one of unicorn, or package.module:attribute, not 'abacus'"),
        ("no.such.module:open", "the engine no.such.module:open must be there to be opened: "),
        ("harness.engine:missing", "the engine harness.engine:missing must be there to be opened"),
        (":open", "the engine :open must be there to be opened"),
        ("harness.engine:ENGINES", "the engine harness.engine:ENGINES must be a function"),
        ("walker:nowhere", "a walker must be package.module:function, not 'nowhere'"),
        ("walker:no.such:walk", "the walker no.such:walk must be there to be opened: "),
    ],
)
def test_refuses_what_names_nothing(spec: str, message: str, memory: PhysicalMemory) -> None:
    with pytest.raises(InputError) as refused:
        open_engine(spec, memory)

    assert str(refused.value).startswith(message)


def test_an_engine_that_is_to_come_is_missing(memory: PhysicalMemory) -> None:
    with pytest.raises(EngineMissing, match="the engine kvm is not offered yet"):
        open_engine("kvm", memory)


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (
            *(1, "def CPU(memory):\n    raise OSError('no such device')\n"),
            "must open over a memory, and raised OSError: no such device",
        ),
        (2, "def CPU(memory):\n    return None\n", "must give a harness.engine.Engine, not None"),
        (
            *(3, "class CPU:\n    def __init__(self, memory): self.memory = memory\n"),
            "and lacks capabilities, play, run, close, probe, probe_many, probe_entries",
        ),
        (
            *(4, "from harness.engine import Engine\n"
                 "class CPU(Engine):\n    def __init__(self, memory): self.memory = memory\n"),
            "raised TypeError: Can't instantiate abstract class CPU",
        ),
        (5, "class CPU(UnicornEngine):\n    name = ''\n", "must have a name, in words"),
        (6, "class CPU(UnicornEngine):\n    version = 3\n", "must have a version, in words"),
        (
            *(7, "from harness.memory import PhysicalMemory\n"
                 "def CPU(memory):\n    return UnicornEngine(PhysicalMemory(0x20_0000))\n"),
            "must have the memory that it was opened over as its memory",
        ),
        (8, "1 / 0\n", "must be importable, and raised ZeroDivisionError"),
    ],
)  # fmt: skip
def test_an_engine_that_is_none_is_told_by_its_spec(
    here: Path, memory: PhysicalMemory, number: int, text: str, message: str
) -> None:
    spec = own(here, f"broken_engine_{number}", text)

    with pytest.raises(EngineError) as caught:
        open_engine(spec, memory)

    assert spec in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_an_engine_raises_later_is_told_by_its_spec(
    here: Path, memory: PhysicalMemory
) -> None:
    spec = own(
        here,
        "engine_that_raises",
        "class CPU(UnicornEngine):\n"
        "    def probe(self, cpu, va, access='read'): return {}['lost']\n",
    )

    with open_engine(spec, memory) as engine, pytest.raises(EngineBroken) as caught:
        engine.probe(CpuState(cr3=0x1000), 0)
    assert str(caught.value) == f"the engine {spec} raised KeyError: 'lost', in probe"
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_an_engine_says_in_our_words_passes(here: Path, memory: PhysicalMemory) -> None:
    spec = own(
        here,
        "engine_that_says_so",
        "from harness.errors import EngineError\n"
        "class CPU(UnicornEngine):\n"
        "    def probe(self, cpu, va, access='read'): raise EngineError('it stopped')\n",
    )

    with open_engine(spec, memory) as engine, pytest.raises(EngineError, match=r"^it stopped$"):
        engine.probe(CpuState(cr3=0x1000), 0)


def test_an_abstract_engine_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Engine()  # type: ignore[abstract]


def test_the_identity_of_ones_own_engine_changes_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "identified.py"
    source.write_text("A = 1\n")
    first = engine_identity("identified:A")
    source.write_text("A = 2\n")
    second = engine_identity("identified:A")
    assert first["spec"] == second["spec"] == "identified:A"
    assert first["source"] != second["source"]
    assert engine_identity("walker:identified:A")["source"] == second["source"]
    assert engine_identity("unicorn")["version"]
    assert engine_identity("nowhere.at_all:A") == {"spec": "nowhere.at_all:A"}
