"""What is served over HTTP: Flower's pages, the JSON API, Prometheus metrics.

Face: ``flower``, ``metrics``. Its own: ``handlers``, ``queries``.
"""
