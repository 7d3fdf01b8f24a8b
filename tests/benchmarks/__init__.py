"""Measurements, each a program: see README.md beside this."""
