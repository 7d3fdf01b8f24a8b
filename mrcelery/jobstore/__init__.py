"""The live state of jobs, in Redis or in memory: jobs, attempts, heartbeats, workers, queued messages."""
