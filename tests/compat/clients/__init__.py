"""Unmodified S3 clients from their registries, run by `scripts/clients.py`."""
