"""The job's code: found, packed on the client, unpacked and activated on the worker.

Used from outside: ``bundle``, ``workspace``, ``traceless``. Internal: ``job_file``, ``dependencies``, ``archives``.
"""
