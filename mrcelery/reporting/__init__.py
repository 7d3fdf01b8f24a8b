"""A job as a person or a program sees it: status, overview, events, logs, report, page.

Used from outside: ``status``, ``overview``, ``timeline``, ``rates``, ``monitor``, ``report``, ``excerpts``, ``logs``,
``history``, ``page``.
"""
