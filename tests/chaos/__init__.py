"""Jobs on workers among faults that a seed decides: see README.md beside this."""
