"""The ``mrcelery`` command: :mod:`mrcelery.cli.main`, and one module per command."""
