"""``harness engines``: which CPUs there are, what they can do, and whether they do their duties."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from harness.commands.sentence import sentence
from harness.errors import EngineError, InputError
from harness.isolate import doing, isolated

if TYPE_CHECKING:
    from harness.engine.conformance import Proof

__all__ = ["engines"]


@click.command()
@click.option(
    "--engine",
    "specs",
    multiple=True,
    metavar="SPEC",
    help="List this one too: package.module:attribute, or walker:package.module:function.",
)
@click.option("--prove", "proved", metavar="SPEC", help="Try every duty of an engine on this one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def engines(specs: tuple[str, ...], proved: str | None, as_json: bool) -> None:
    """List the engines: versions, capabilities, what they refuse, what is registered of them.

    With --prove, hold one engine to every duty that an engine has. Exit code 1 means that it fails
    one, 3 that an engine is missing or cannot be opened.

    Example: harness engines --prove mine:CPU
    """
    if proved is not None:
        raise SystemExit(_prove(proved, as_json=as_json))
    from harness.engine import ENGINES

    rows = [_told(spec) for spec in dict.fromkeys((*ENGINES, *specs))]
    if as_json:
        click.echo(json.dumps({"engines": rows}))
    else:
        from harness.show.engines import print_engines

        print_engines(rows)
    if any("missing" in row for row in rows):
        raise SystemExit(3)


def _told(spec: str) -> dict[str, Any]:
    try:
        return isolated(describe, spec)
    except InputError:
        raise
    except EngineError as error:
        return {"spec": spec, "missing": sentence(error)}


def describe(spec: str) -> dict[str, Any]:
    """Tell all that there is to say of an engine, as JSON values; in a process of its own.

    :raises EngineError: when it is missing or broken.
    """
    from harness.check.registered.registry import covering
    from harness.engine import open_engine
    from harness.memory import PhysicalMemory

    with open_engine(spec, PhysicalMemory(0x20_0000)) as engine:
        return {
            "spec": spec,
            "name": engine.name,
            "version": engine.version,
            "capabilities": engine.capabilities.to_json(),
            "refuses": _refused(engine),
            "registered": [
                {"name": one.name, "rule": one.rule, "reason": one.reason}
                for one in covering(engine)
            ],
        }


def _refused(engine: Any) -> list[str]:
    """List the reasons for which an engine refuses states and accesses that some CPU has."""
    from harness.cpu import CpuState
    from harness.engine.steps import AccessStep
    from harness.outcome import Access, AccessKind

    plain = CpuState(cr3=0x1000)
    features = plain.features
    # LA57, PCIDE, SMEP, SMAP, PKE, PKS.
    states = [plain.replace(cr4=plain.cr4 | 1 << bit) for bit in (12, 17, 20, 21, 22, 24)]
    states += [plain.replace(features=features.replace(maxphyaddr=bits)) for bits in (36, 46, 52)]
    states += [plain.replace(features=features.replace(pdpe1gb=False))]
    accesses = [Access(kind, size) for kind in AccessKind for size in (1, 3, 8, 10, 16, 32)]
    accesses += [Access(AccessKind.READ, 4, implicit=True), Access(AccessKind.READ, 8, stack=True)]
    found = [engine.refuses(state) for state in states]
    found += [engine.refuses(plain, [AccessStep(0, access)]) for access in accesses]
    return list(dict.fromkeys(reason for reason in found if reason))


def _prove(spec: str, *, as_json: bool) -> int:
    proofs: list[Proof] = isolated(proofs_of, spec)
    if as_json:
        click.echo(json.dumps({"spec": spec, "duties": [proof.to_json() for proof in proofs]}))
    else:
        from harness.show.engines import print_proofs

        print_proofs(spec, proofs)
    return 0 if all(proof.done for proof in proofs) else 1


def proofs_of(spec: str) -> list[Proof]:
    """Try every duty of an engine, in this process.

    :raises EngineError: when it is missing or cannot be opened.
    """
    from harness.engine.conformance import DUTIES, prove

    proofs = []
    for proof in prove(spec):
        proofs.append(proof)
        doing(f"proving {spec}", len(proofs), len(DUTIES))
    return proofs
