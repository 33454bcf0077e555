"""Planted bugs: engines that break one rule each, to see whether a campaign finds them.

A campaign that reports no difference says something about the engine only if it would have reported
one. So each rule is broken on purpose, at each level where it can be: :mod:`.flaws` lists how,
:mod:`.engine` wraps a right engine so that it has one of these flaws, and :mod:`.table` runs
campaigns against all of them. Each flaw is an engine of its own, by name::

    harness matrix classic --engine harness.planted.engines:PRESENT_2

docs/planted.md has the table, and says what cannot be planted.
"""
