"""The certificate of the S3 port, checked before anything is started and used by every gateway."""

from __future__ import annotations

import ssl

from sos.errors import StartRefused


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


def _no_password() -> str:
    """Otherwise OpenSSL asks at the terminal, once per process."""
    raise ValueError("the key is encrypted: store it without a password")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        words = (error.reason or "").replace("_", " ").lower()
        return words or "not a PEM certificate chain with its private key"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
