"""What ``harness engines`` shows: engines and their capabilities, and the proof of their duties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from rich.text import Text

from harness.engine.conformance import Proof
from harness.show.console import columns, console

__all__ = ["print_engines", "print_proofs"]

_WORDS = {True: "yes", False: "no"}


def print_engines(engines: Iterable[dict[str, Any]]) -> None:
    """Print engines as ``harness engines --json`` tells them."""
    out = console()
    for number, engine in enumerate(engines):
        if number:
            out.print()
        if "missing" in engine:
            out.print(Text(engine["spec"], "bold red"))
            _wrapped(out, f"  {engine['missing']}", "    ")
            continue
        head = Text(engine["spec"], "bold")
        head.append(f"  {engine['name']} {engine['version']}", style="not bold")
        out.print(head)
        _capabilities(out, engine["capabilities"])
        for title, lines in (
            ("refuses", engine["refuses"]),
            (
                "registered divergences",
                [f"{one['name']} ({one['rule']}): {one['reason']}" for one in engine["registered"]],
            ),
        ):
            out.print(Text(f"  {title}" + ("" if lines else ": none")))
            for line in lines:
                _wrapped(out, f"    {line}", "      ")


def _capabilities(out: Any, capabilities: dict[str, Any]) -> None:
    told = {name.replace("_", " "): _value(value) for name, value in capabilities.items()}
    width = max(map(len, told))
    for name, value in told.items():
        _wrapped(out, f"  {name:<{width}}  {value}", " " * (width + 4))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, list):
        return _ranges(value) or "none"
    return str(value)


def _ranges(numbers: list[int]) -> str:
    """Name numbers, neighbours as a range: ``1-4, 8``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def print_proofs(spec: str, proofs: Sequence[Proof]) -> None:
    """Print what became of every duty of an engine."""
    out = console()
    rows = []
    styles = []
    for proof in proofs:
        mark = "✗" if proof.failure else "–" if proof.skipped else "✓"
        rows.append((mark, proof.duty, proof.sentence))
        styles.append("bold red" if proof.failure else "dim" if proof.skipped else "")
    columns(out, ("", "duty", f"what {spec} must do"), rows, styles)
    for proof in proofs:
        if proof.failure or proof.skipped:
            why = proof.failure or f"not tried: {proof.skipped}"
            out.print(Text(proof.duty, "bold red" if proof.failure else "dim"))
            _wrapped(out, f"  {why}", "  ")
    failed = sum(not proof.done for proof in proofs)
    tried = sum(not proof.skipped for proof in proofs)
    if failed:
        out.print(Text(f"✗ {failed} of {tried} duties are not done", "bold red"))
    else:
        out.print(Text(f"✓ all {tried} duties are done", "bold green"))


def _wrapped(out: Any, text: str, indent: str) -> None:
    first = text[: len(text) - len(text.lstrip())]
    for line in wrap(text.lstrip(), out.width - 1, initial_indent=first, subsequent_indent=indent):
        out.print(Text(line), soft_wrap=True)
