"""Hostile surroundings: what users, machines and services do that no healthy test environment does."""
