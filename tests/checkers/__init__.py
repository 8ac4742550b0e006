"""Checkers that judge recorded histories; they know nothing of SOS and import nothing of it."""
