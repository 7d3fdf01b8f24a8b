"""Inputs to files, files to splits, splits to plan pages, and what they cost.

Face: ``listing``, ``splits``, ``price``. Its own: ``globs``.
"""
