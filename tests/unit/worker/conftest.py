"""A submitted job, as the tests of attempts have it."""

from tests.unit.attempt.conftest import submitted

__all__ = ["submitted"]
