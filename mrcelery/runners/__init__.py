"""Where a job runs, behind one protocol: in this process, on a cluster of its own, or on a fleet.

Used from outside: ``base``, ``enter``, ``fleet``, ``inline``, ``preload``, ``redis_server``, ``server_process``.
Internal: ``local``.
"""
