"""The tests, and what they share; ``python -m tests.chaos.run`` and the benchmarks run from the checkout's root."""
