"""The image and compose.yaml, on a Docker engine."""
