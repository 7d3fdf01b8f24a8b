"""The Helm chart: rendered, checked against schemas, and run."""
