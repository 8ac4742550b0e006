"""Hostile bytes for every parser of what a client sends: one table, a mutator, a kept corpus."""
