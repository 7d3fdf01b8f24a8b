"""The short steps between the stages of a job, which any worker may run, any number of times.

Face: ``stages``, ``start``, ``barrier``, ``finish``, ``cancel``, ``reconcile``, ``output_commit``. Its own:
``resume``, ``rerun``, ``summaries``.
"""
