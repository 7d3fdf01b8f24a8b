"""The live state of jobs, in Redis or in memory: jobs, attempts, heartbeats, workers, queued messages.

Used from outside: ``base``, ``redis``, ``memory``, ``connection``, ``journal``, ``stage_marks``, ``presence``,
``messages``, ``queue_scan``.
"""
