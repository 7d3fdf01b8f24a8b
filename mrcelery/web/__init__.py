"""What is served over HTTP: Flower's pages, the JSON API, Prometheus metrics.

Used from outside: ``flower``, ``metrics``. Internal: ``handlers``, ``queries``.
"""
