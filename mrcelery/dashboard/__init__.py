"""Our pages inside Flower: ``/jobs`` and ``/jobs/<id>``, and ``/api/jobs`` for programs.

Flower has no way to add pages but the list of routes that it starts with, and its settings; both are Tornado's. They
are extended by :func:`mrcelery.dashboard.routes.install`, before Flower starts.
"""
