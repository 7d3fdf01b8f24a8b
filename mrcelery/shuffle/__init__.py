"""Sorted runs: written, indexed, merged, and divided among reduce tasks.

Face: ``runs``, ``index``, ``bounds``, ``part_lists``, ``skew``, ``damage``.
"""
