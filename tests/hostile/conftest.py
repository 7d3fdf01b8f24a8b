"""Real parts for a hostile world: those of the integration tests."""

from tests.integration.conftest import broker, bucket, job_file, no_settings, server, text, word_count

__all__ = ["broker", "bucket", "job_file", "no_settings", "server", "text", "word_count"]
