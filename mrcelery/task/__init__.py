"""The map and reduce sides themselves: user code is called here and nowhere else.

Used from outside: ``context``, ``mapper``, ``reducer``, ``sink``, ``bad_records``, ``memory_limit``. Internal:
``map_buffer``, ``arrow_buffer``, ``arrow_ops``, ``folding``, ``skipping``, ``pace``.
"""
