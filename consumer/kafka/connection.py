"""How to reach a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexihash.consumer.consumer_errors import ConnectionSettingsError
from flexihash.consumer.kafka.tls import NO_PASSPHRASE, check_certificates, check_identity

CONNECT_TIMEOUT_MS = 3_000  # for a client's first answer: short, since a stop signal waits for it
REQUEST_TIMEOUT_MS = 10_000  # for one answer of a broker that is connected
MAX_RECONNECT_BACKOFF_MS = 1_000  # the client's own 30 s would outlast a broker's restart
SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


@dataclass(frozen=True)
class KafkaConnection:
    """How to reach a cluster.

    Args:
        bootstrap_servers: ``host:port``, or several with commas between.
        security_protocol: one of SECURITY_PROTOCOLS.
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, with `username` and `password`.
        ssl_cafile: PEM file of the authority that signed the brokers' certificates; None trusts the system's.
        ssl_certfile, ssl_keyfile: PEM files of this client's own certificate and its key, for brokers that ask for one.

    Raises:
        ConnectionSettingsError: an unknown protocol, SASL without mechanism, name and password, or a certificate
            without its key.
    """

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def __post_init__(self) -> None:
        if self.security_protocol not in SECURITY_PROTOCOLS:
            known = ", ".join(SECURITY_PROTOCOLS)
            raise ConnectionSettingsError(f"security protocol {self.security_protocol!r} is not one of {known}")
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.username and self.password):
            raise ConnectionSettingsError(f"{self.security_protocol} needs a SASL mechanism, a username and a password")
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            raise ConnectionSettingsError("a client certificate needs its key, and a key its certificate")

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.security_protocol.endswith("SSL")

    def check_files(self) -> None:
        """Returns where the files of TLS can be used, if TLS is spoken.

        Raises:
            ConnectionSettingsError: one cannot; named.
        """
        if self.is_encrypted and self.ssl_cafile:
            check_certificates(Path(self.ssl_cafile))
        if self.is_encrypted and self.ssl_certfile and self.ssl_keyfile:
            check_identity(Path(self.ssl_certfile), Path(self.ssl_keyfile))

    def client_settings(self) -> dict[str, Any]:
        """The keyword arguments that every kafka-python client takes; names that are not set are left out."""
        settings = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
            "ssl_cafile": self.ssl_cafile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_keyfile": self.ssl_keyfile,
            "ssl_password": NO_PASSPHRASE,
            "client_id": "flexihash",
            "bootstrap_timeout_ms": CONNECT_TIMEOUT_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "reconnect_backoff_max_ms": MAX_RECONNECT_BACKOFF_MS,
        }
        return {name: value for name, value in settings.items() if value is not None}
