"""Jobs on workers, with faults that a seed decides; see README.md in this folder."""
