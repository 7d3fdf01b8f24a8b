"""Sorted runs: written, indexed, merged, and divided among reduce tasks.

Used from outside: ``runs``, ``index``, ``bounds``, ``part_lists``, ``skew``, ``damage``.
"""
