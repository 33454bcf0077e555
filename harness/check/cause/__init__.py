"""Root causes: which rule an engine breaks, at which level, told by what it acted as if.

:func:`cause_of` looks for the smallest single change under which the walker would have predicted
exactly what was observed: a bit of one entry, a switch of the CPU, a property of the access
(:mod:`harness.check.cause.variations`), another error code or CR2, accessed and dirty bits left out
or too many. "The CPU acted as if bit R/W of the PDE at 0x2000 were 1" names the rule and the level;
when nothing that is tried explains an observation, the :class:`Cause` says so::

    cause = cause_of(memory, walk, observation)
    print(cause.likeliest.key, cause.likeliest.as_if)

One question seldom has one possible cause. A user's read that passes where U/S of the PDPTE is
clear may come of an engine that ignores U/S there, or everywhere. ``Cause.keys`` has them all, and
the findings of one campaign together tell which it is
(:func:`harness.check.findings.roots.root_causes`).

===============  =================================================================================
``explanation``  what a cause is, and what explains an observation
``search``       what is tried, in which order, and what is guessed when nothing fits
``variations``   the single changes that are tried
``change``       causes that are one change under which the walker predicts what was observed
``effects``      causes about the error code, CR2, the physical address and the order of checks
``bits``         causes about the A and D bits
===============  =================================================================================
"""

from harness.check.cause.explanation import Cause, CauseKey, Explanation
from harness.check.cause.search import cause_of

__all__ = ["Cause", "CauseKey", "Explanation", "cause_of"]
