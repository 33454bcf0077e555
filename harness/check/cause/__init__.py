"""Root causes: which rule an engine breaks, at which level, told by what it acted as if.

:func:`cause_of` looks for the smallest single change under which the walker would have predicted
exactly what was observed: a bit of one entry, a switch of the CPU, a property of the access
(:mod:`harness.check.cause.variations`), another error code or CR2, accessed and dirty bits left out
or too many. "The CPU acted as if bit R/W of the PDE at 0x2000 were 1" names the rule and the level;
when nothing that is tried explains an observation, the :class:`Cause` says so::

    cause = cause_of(memory, walk, observation)
    print(cause.rule, cause.level, cause.as_if)

One case seldom has one possible cause. A user's read that passes where U/S of the PDPTE is clear
may come of an engine that ignores U/S there, or everywhere. ``Cause.keys`` has them all, and the
findings of one campaign together tell which it is: :func:`root_causes` chooses the fewest causes
that explain every finding.

===============  =================================================================================
``explanation``  what a cause is, and what explains an observation
``search``       what is tried, in which order
``change``       causes that are one change under which the walker predicts what was observed
``codes``        causes about the error code, CR2, and which fault it is
``address``      causes about the physical address
``order``        causes about rights that are judged too early
``bits``         causes about the A and D bits
``guesses``      what nothing explains
``registered``   the registered divergences, which may stand beside a cause
``findings``     the finding of one difference
``roots``        the fewest causes that explain all findings
===============  =================================================================================

It fails only where there is nothing to explain: :func:`cause_of` raises ``ValueError`` for an
observation that agrees.
"""

from harness.check.cause.explanation import Cause, Explanation
from harness.check.cause.findings import finding_of, told_as
from harness.check.cause.roots import root_causes
from harness.check.cause.search import cause_of

__all__ = ["Cause", "Explanation", "cause_of", "finding_of", "root_causes", "told_as"]
