"""Real parts, as the integration tests have them."""

from tests.integration.conftest import job_file, no_settings, server

__all__ = ["job_file", "no_settings", "server"]
