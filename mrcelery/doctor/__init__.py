"""Examine broker, storage, clocks and workers, and say what to do.

Face: ``checks``. Its own: ``redis_checks``.
"""
