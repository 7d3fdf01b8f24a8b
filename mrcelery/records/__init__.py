"""What a key is, how records are ordered and hashed, and a block of them as bytes.

Used from outside: ``order``, ``hashing``, ``columns``, ``objects``, ``blocks``, ``snapshot``.
"""
