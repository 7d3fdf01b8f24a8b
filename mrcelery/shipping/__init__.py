"""The job's code: found, packed on the client, unpacked and activated on the worker.

Face: ``bundle``, ``workspace``, ``traceless``. Its own: ``job_file``, ``dependencies``, ``archives``.
"""
