"""The ``mrcelery`` command: one module per subcommand.

Used from outside: ``main``. Internal: ``errors``, ``common``, ``pages``, ``picture``, ``progress``, ``live``,
``terminal``, ``job_class`` and the commands.
"""
