"""Submit a job, hold its handle, bring its results home.

Face: ``api``, ``settle``, ``submission``, ``handle``, ``results``. Its own: ``uploads``, ``options``, ``client_token``.
"""
