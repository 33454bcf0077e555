"""Calibration: it finds what it looks for exactly once, or refuses the engine."""

from collections.abc import Iterator
from typing import Any

import pytest

from harness.engine import open_engine
from harness.engine.unicorn import calibrate as module
from harness.engine.unicorn.calibrate import calibrate
from harness.engine.unicorn.library import VERSION
from harness.errors import EngineBroken, EngineMissing, InputError
from harness.memory import PhysicalMemory

SENTENCE = (
    f"calibration of unicorn {VERSION} must find its exception state, but {{}}; "
    "this build of Unicorn cannot be trusted with paging"
)


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    calibrate.cache_clear()
    yield
    calibrate.cache_clear()


def refusal() -> str:
    with pytest.raises(EngineBroken) as caught:
        calibrate()
    return str(caught.value)


def test_what_is_found_lies_inside_the_context_and_apart() -> None:
    at = calibrate()
    found = [
        *(at.rip, at.error_code, at.software, at.previous, at.cr2, at.hflags, at.pkru),
        at.stack_flags,
    ]
    assert len(set(found)) == len(found)
    assert all(0 <= offset <= at.size - 4 and offset % 4 == 0 for offset in found)
    assert at.rip == at.registers + 16 * 8
    assert not any(at.registers <= offset < at.rip for offset in found)


def test_it_runs_once_in_a_process() -> None:
    assert calibrate() is calibrate()


def test_two_calibrations_find_the_same() -> None:
    first = calibrate()
    calibrate.cache_clear()
    assert calibrate() == first


@pytest.mark.parametrize(
    "part",
    [
        *("the error code", "CR2", "the previous exception", "the software-interrupt mark"),
        *("the CPL", "PKRU", "SS's descriptor"),
    ],
)
@pytest.mark.parametrize("found", [set(), {8, 16}])
def test_a_part_that_is_not_found_exactly_once(
    monkeypatch: pytest.MonkeyPatch, part: str, found: set[int]
) -> None:
    only = module._only
    monkeypatch.setattr(
        module, "_only", lambda what, seen: only(what, set(found) if what == part else seen)
    )
    assert refusal() == SENTENCE.format(
        f"{part} was found at offsets {sorted(found)}, not at exactly one"
    )


def test_registers_that_are_not_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = (module._REGISTERS[1], module._REGISTERS[0], *module._REGISTERS[2:])
    monkeypatch.setattr(module, "_REGISTERS", turned)
    assert refusal() == SENTENCE.format("the general registers were found 0 times")


def test_faults_that_do_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MISSING", module._ALIAS)  # a page that is there
    assert refusal() == SENTENCE.format("a provoked exception was reported 0 times")


class Bench(module._Bench):
    """A CPU that does one thing wrong."""

    flaw = ""

    def run(self, code: bytes, state: bytes | None = None, **options: Any) -> bytes:
        after = super().run(code, state, **options)
        if self.flaw == "translation" and options.get("rsi") == module._ALIAS:
            # As a CPU with translation switched off: the frame of the same number.
            self.bytes[module._ALIAS : module._ALIAS + 8] = 0
            after = after.replace(b"physical", bytes(8))
        if self.flaw == "lost" and state is not None and state != self.pristine:
            self.faulted.clear()
        return after


@pytest.mark.parametrize(
    ("flaw", "why"),
    [
        (
            "translation",
            "a read through a page whose frame lies elsewhere did not reach that frame",
        ),
        ("lost", "a repeated page fault arrived as []"),
    ],
)
def test_a_cpu_that_does_not_do_it(monkeypatch: pytest.MonkeyPatch, flaw: str, why: str) -> None:
    monkeypatch.setattr(Bench, "flaw", flaw)
    monkeypatch.setattr(module, "_Bench", Bench)
    assert refusal() == SENTENCE.format(why)


def test_a_cpu_with_translation_off_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test of docs/quirks.md, Unicorn 13: a CPU whose CR0.PG stays clear."""
    bench = module._Bench()
    try:
        at = calibrate()
        from unicorn import x86_const as x86

        bench.uc.reg_write(x86.UC_X86_REG_CR0, 0x1_0033)
        bench.pristine = bench.save()
        with pytest.raises(EngineBroken) as caught:
            module._prove(bench, at)
    finally:
        bench.close()
    assert str(caught.value) == SENTENCE.format(
        "a read through a page whose frame lies elsewhere did not reach that frame"
    )


def test_forgetting_the_previous_exception_is_what_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the wrong offset the second fault is the wrong vector: docs/quirks.md, Unicorn 2."""
    from dataclasses import replace

    at = calibrate()
    bench = module._Bench()
    try:
        with pytest.raises(EngineBroken, match=r"a repeated page fault arrived as \[8\]"):
            module._prove(bench, replace(at, previous=at.error_code))
    finally:
        bench.close()


def test_an_engine_that_is_refused_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    only = module._only
    monkeypatch.setattr(module, "_only", lambda what, _seen: only(what, set()))
    with pytest.raises(EngineBroken, match="the error code"):
        open_engine("unicorn", PhysicalMemory(0x1000))


def test_another_engine_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        open_engine("abacus", PhysicalMemory(0x1000))
    assert (
        str(caught.value)
        == "the engine must be one of unicorn, or package.module:attribute, not 'abacus'"
    )


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "harness.engine.unicorn", None)
    with pytest.raises(EngineMissing, match=r"^the engine unicorn must be installed"):
        open_engine("unicorn", PhysicalMemory(0x1000))
