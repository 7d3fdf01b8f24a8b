"""Examine broker, storage, clocks and workers, and say what to do.

Used from outside: ``checks``. Internal: ``redis_checks``.
"""
