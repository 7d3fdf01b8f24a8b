"""The Celery worker: tasks, publishing, leases, reconciler, probes.

Used from outside: ``app``. Internal: ``tasks``, ``publish``, ``leases``, ``transport``, ``reconciler``, ``hung``,
``lost``, ``liveness``, ``alive``, ``flower_events``, ``local_worker``, ``broker_errors``, ``broker_wait``.
"""
