"""Real services, data and faults for all tests: start here to find a helper."""
