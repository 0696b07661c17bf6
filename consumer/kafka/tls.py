"""The files that TLS to the brokers takes, checked before a client is made: its own errors do not name them."""

from __future__ import annotations

import ssl
from pathlib import Path

from flexihash.consumer.consumer_errors import ConnectionSettingsError

NO_PASSPHRASE = ""  # or OpenSSL would ask for one on the terminal


def check_certificates(path: Path) -> None:
    """Returns where a file holds certificates.

    Raises:
        ConnectionSettingsError: it cannot be read, or holds none in PEM.
    """
    _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ConnectionSettingsError(f"{path} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)") from None


def check_identity(certificate: Path, key: Path) -> None:
    """Returns where two files hold a client's certificate and its key.

    Raises:
        ConnectionSettingsError: one cannot be read or is not PEM, the key has a passphrase or is another certificate's.
    """
    check_certificates(certificate)
    _read(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=NO_PASSPHRASE)
    except ssl.SSLError:
        raise ConnectionSettingsError(f"{key} holds no key of {certificate} in PEM, without a passphrase") from None


def _read(path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConnectionSettingsError(f"{path} cannot be read: {error.strerror}") from error
