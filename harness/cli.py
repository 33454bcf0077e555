"""The ``harness`` command.

Each command is a module of ``harness.commands`` that is imported when it is asked for, so that
``harness --help`` is quick. What goes wrong becomes one sentence on stderr and an exit code, never
a traceback:

====  ====================================================================
0     everything agreed, and did what was expected of it
1     a divergence that is not registered, or a failed expectation
2     bad input or bad usage: :class:`~harness.errors.InputError`
3     the engine is missing or broke: :class:`~harness.errors.EngineError`
130   a campaign was interrupted; its report says what was done until then
====  ====================================================================

Every command has ``--json``.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final

import click

from harness.commands.sentence import sentence
from harness.errors import EngineError, HarnessError

__all__ = ["cli", "main"]

_COMMANDS: Final = {
    "check": ("harness.commands.check", "Let the CPU judge kernels and real page tables."),
    "walk": ("harness.commands.walk", "Follow addresses through page tables."),
    "probe": ("harness.commands.probe", "Answer questions: what is predicted, what CPUs do."),
    "matrix": ("harness.commands.matrix", "Ask the CPU every combination, and tell what differs."),
    "fuzz": ("harness.commands.fuzz", "Ask the CPU what no kernel would do, at random."),
    "engines": ("harness.commands.engines", "List the CPUs, and prove that one does its duties."),
    "run": ("harness.commands.run", "Run a guest kernel, and say all that it did."),
    "boot": ("harness.commands.boot", "Boot a kernel as bootloader 0.9 does."),
    "lecture": (
        "harness.commands.lecture",
        "Tell the lecture, and prove it on the CPU.",
    ),
    "data": ("harness.commands.data", "List the page tables and kernels that ship, by name."),
    "asm": ("harness.commands.asm", "Assemble a file and list what came out."),
}


class _BadInput(click.ClickException):
    """A sentence on stderr."""

    exit_code = 2


class _BrokenEngine(click.ClickException):
    """A sentence on stderr."""

    exit_code = 3


class _Commands(click.Group):
    """Commands by name, imported one at a time; errors as sentences."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _text = _COMMANDS[name]
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_module, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EngineError as error:
            raise _BrokenEngine(sentence(error)) from error
        except HarnessError as error:
            raise _BadInput(sentence(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="harness")
def cli() -> None:
    """Real x86-64 page tables, a software walker, and an emulated CPU that judges it."""


def main() -> None:
    """Run the command line, and exit."""
    from harness.show.console import make_streams_safe

    make_streams_safe()
    # Processes that libraries start must not look for modules where a person stands.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        cli(prog_name="harness")
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain at shutdown either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
