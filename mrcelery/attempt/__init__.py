"""Everything around one attempt at a task: open the job, capture output, repair inputs, commit, clean up.

Used from outside: ``run``, ``open_jobs``, ``commit``, ``cleanup``, ``failure``, ``output_capture``, ``progress_file``,
``scratch``, ``begin``, ``orders``, ``job_process``, ``descendants``. Internal: ``heartbeat``, ``repair``.
"""
