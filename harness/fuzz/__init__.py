"""The random campaign: what no kernel would do, asked of a CPU by the million.

A case has a number. Cases come in groups that share one address space (:mod:`.spaces`) and a few
CPU states (:mod:`.states`); each aims one access at it (:mod:`.aims`). What a group is like is
decided by knobs (:mod:`.steer`): shares, which one round's coverage (:mod:`.coverage`) sets for
the next round. Some groups are of scenarios (:mod:`.kinds`): several steps on one CPU.
:class:`~harness.fuzz.work.FuzzWork` cuts it all into shards for a runner::

    work = FuzzWork(seed=1, cases=100_000)
    tally = sum((work.run(shard) for shard in work.plan(0, Tally())), Tally())

The same seed, number and knobs give the same case on every machine (:mod:`.dice`).
"""
