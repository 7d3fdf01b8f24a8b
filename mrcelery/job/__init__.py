"""The class that a user writes, and what the engine asks of it.

Face: ``base``, ``step``, ``hooks``, ``partitioners``, ``mrjob_alias``, ``tracebacks``.
"""
