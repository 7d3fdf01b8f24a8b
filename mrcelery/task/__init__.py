"""The map and reduce sides themselves: user code is called here and nowhere else.

Face: ``context``, ``mapper``, ``reducer``, ``sink``, ``bad_records``, ``memory_limit``. Its own: ``map_buffer``,
``arrow_buffer``, ``arrow_ops``, ``folding``, ``skipping``, ``pace``.
"""
