"""Inputs to files, files to splits, splits to plan pages, and what they cost.

Used from outside: ``listing``, ``splits``, ``price``. Internal: ``globs``.
"""
