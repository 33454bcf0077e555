"""Prediction against observation: cases, comparisons, campaigns, real page tables, kernels.

============  ====================================================================================
``case``      one question to the MMU, in the form of every reproducer
``compare``   one prediction against one observation
``known``     the registered divergences: engine, version, rule, reason, and what would be without
``campaign``  one RAM and one engine for case after case
``shrink``    a small case instead of a large one
``sets``      real page-table sets: walker, CPU and QEMU's answers
``report``    what the check of a set found, counted
``kernels``   guest kernels against their headers
============  ====================================================================================

A difference is a result here, not an exception. What is raised is what a user gave wrongly
(:class:`~harness.errors.InputError`) or an engine that broke
(:class:`~harness.errors.EngineError`).
"""
