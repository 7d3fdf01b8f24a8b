"""The class that a user writes, and what the engine asks of it.

Used from outside: ``base``, ``step``, ``hooks``, ``partitioners``, ``mrjob_alias``, ``tracebacks``.
"""
