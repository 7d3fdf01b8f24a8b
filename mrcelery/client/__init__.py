"""Submit a job, hold its handle, bring its results home.

Used from outside: ``api``, ``settle``, ``submission``, ``handle``, ``results``. Internal: ``uploads``, ``options``,
``client_token``.
"""
