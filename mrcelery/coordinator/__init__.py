"""The short steps between the stages of a job, which any worker may run, any number of times.

Used from outside: ``stages``, ``start``, ``barrier``, ``finish``, ``cancel``, ``reconcile``, ``output_commit``.
Internal: ``resume``, ``rerun``, ``summaries``.
"""
