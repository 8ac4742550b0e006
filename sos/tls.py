"""The certificate of the S3 port: checked before anything is started, used by every gateway, read again when it changes."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Final

from sos.errors import StartRefused
from sos.telemetry import log

_LOOK_S: Final = 2.0  # how often the files are looked at: two calls of stat


def tls_context(certificate_path: str, key_path: str) -> ssl.SSLContext:
    """TLS 1.2 and later with the given files. Raises: StartRefused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate_path, key_path, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise StartRefused(
            f"cannot use the certificate --s3-tls-cert {certificate_path} with "
            f"--s3-tls-key {key_path}: {_reason(error)}"
        ) from error
    return context


class Certificate:
    """The files of a certificate, and the context that a listener keeps while they change.

    A handshake takes the newest pair that was whole; connections that are open are not touched. A pair that cannot be
    used (half written, of different keys) is logged, and the one before stays.
    """

    def __init__(self, certificate_path: str, key_path: str) -> None:
        """Raises: StartRefused."""
        self._paths = (certificate_path, key_path)
        self._stamp = self._look()
        self.context = tls_context(certificate_path, key_path)
        self._newest = self.context
        # Called for every handshake, with or without a server name.
        self.context.sni_callback = self._choose

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._newest

    async def watch(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.reload()

    def reload(self) -> None:
        """Use the files as they are now, if they changed and can be used."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._newest = tls_context(*self._paths)
        except StartRefused as error:
            log.error("s3.tls.kept", reason=str(error))
        else:
            log.info("s3.tls.reloaded", certificate=self._paths[0])

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _no_password() -> str:
    """Otherwise OpenSSL asks at the terminal, once per process."""
    raise ValueError("the key is encrypted: store it without a password")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        words = (error.reason or "").replace("_", " ").lower()
        return words or "not a PEM certificate chain with its private key"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
