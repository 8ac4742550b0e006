"""One method per S3 operation: parsed operation in, use case, answer out. No HTTP server is visible here.

``Handlers.dispatch`` is what ``app`` runs for each authenticated request.
"""

from __future__ import annotations

from sos.s3.handlers.dispatch import Handlers

__all__ = ["Handlers"]
