"""The structures that client, coordinator and workers exchange, and the keys they are stored under.

Used from outside: ``structs``, ``encoding``, ``object_keys``, ``signing``, ``stragglers``, ``task_id``, ``states``.
"""
