"""The ``mrcelery`` command: one module per subcommand.

Face: ``main``. Its own: ``errors``, ``common``, ``picture``, ``progress``, ``live``, job_class and the commands.
"""
