"""Benchmarks, each a program; see README.md in this folder."""
