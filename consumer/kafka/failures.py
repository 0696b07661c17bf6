"""What a failure of kafka-python means: one of our errors for each of its."""

from __future__ import annotations

import ssl

from kafka.errors import (
    AuthorizationError,
    CorruptRecordError,
    IllegalSaslStateError,
    IllegalStateError,
    InvalidReceiveError,
    KafkaConfigurationError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
)

from flexihash.consumer.consumer_errors import (
    AccessDenied,
    BrokerRefused,
    BrokerUnavailable,
    BrokerUntrusted,
    ClientFailed,
    ConnectionSettingsError,
    ConsumerError,
    Fault,
    RecordUnreadable,
)
from flexihash.consumer.kafka.connection import KafkaConnection

TLS_ALERT = 0x150303  # the first three bytes of what a TLS port answers to a client that speaks none


def translate(error: Exception, connection: KafkaConnection) -> ConsumerError:
    """One of our errors for one of kafka-python's; ours stay what they are."""
    if isinstance(error, ConsumerError):
        return error
    text = str(error) or type(error).__name__
    return (
        _of_access(error, text, connection)
        or _of_protocol(error, text, connection)
        or _of_tls(error, connection)
        or _of_broker(error, text, connection)
        or ClientFailed(f"the client of {_name(connection)} failed: {type(error).__name__}: {text}")
    )


def find_tls_failure(error: Exception) -> ssl.SSLError | None:
    """What went wrong in TLS; the client wraps it in an error of its own, or raises that while it handles it."""
    found = (cause for cause in (*error.args, error.__context__) if isinstance(cause, ssl.SSLError))
    return next(found, None)


def _name(connection: KafkaConnection) -> str:
    return f"Kafka at {connection.bootstrap_servers}"


def _of_access(error: Exception, text: str, connection: KafkaConnection) -> ConsumerError | None:
    kafka, user, mechanism = _name(connection), connection.username, connection.sasl_mechanism
    match error:
        case SaslAuthenticationFailedError():
            reason = text.rpartition(f"{type(error).__name__}: ")[2]
            return AccessDenied(f"{kafka} denies user {user!r} access by {mechanism}: {reason}", Fault.CREDENTIALS)
        case UnsupportedSaslMechanismError():
            return AccessDenied(f"{kafka} denies access: it takes no login by {mechanism}", Fault.MECHANISM)
        case AuthorizationError():
            return AccessDenied(f"{kafka} denies access: {text}; grant user {user!r} the rights", Fault.RIGHTS)
    return None


def _of_protocol(error: Exception, text: str, connection: KafkaConnection) -> ConsumerError | None:
    kafka, protocol = _name(connection), connection.security_protocol
    if isinstance(error, IllegalSaslStateError):
        wanted = protocol.removeprefix("SASL_")
        return ConnectionSettingsError(f"{kafka} takes no login there", Fault.PROTOCOL, wanted)
    if isinstance(error, InvalidReceiveError) and not connection.is_encrypted and _is_tls_alert(text):
        return ConnectionSettingsError(f"{kafka} speaks TLS there", Fault.PROTOCOL, "SSL or SASL_SSL")
    return None


def _is_tls_alert(text: str) -> bool:
    """Whether the client took a TLS alert for the length of an answer: ``Invalid frame length: 352518912``."""
    number = text.rpartition(" ")[2]
    return number.isdecimal() and int(number) >> 8 == TLS_ALERT


def _of_tls(error: Exception, connection: KafkaConnection) -> ConsumerError | None:
    kafka, protocol = _name(connection), connection.security_protocol
    failure = find_tls_failure(error)
    if failure is None:
        return None
    if isinstance(failure, ssl.SSLCertVerificationError):
        reason = failure.verify_message.rstrip(".")
        return BrokerUntrusted(f"the certificate of {kafka} is not trusted: {reason}", Fault.AUTHORITY)
    if "_ALERT_" in (failure.reason or ""):
        return AccessDenied(f"{kafka} refuses TLS with this client: {failure.reason}", Fault.CERTIFICATE)
    question = f"is it up, and does it speak {protocol} there?"
    return BrokerUnavailable(f"{kafka} ended the TLS handshake ({failure.reason}): {question}", Fault.PROTOCOL)


def _of_broker(error: Exception, text: str, connection: KafkaConnection) -> ConsumerError | None:
    kafka = _name(connection)
    match error:
        case CorruptRecordError() | UnsupportedCodecError():
            return RecordUnreadable(f"{kafka} holds a record that cannot be read: {text}")
        case KafkaTimeoutError():
            question = f"is the address right, is it up, does it speak {connection.security_protocol} there?"
            return BrokerUnavailable(f"{kafka} does not answer ({text}): {question}")
        case KafkaConfigurationError() | ValueError() | TypeError() | FileNotFoundError():
            return ConnectionSettingsError(f"cannot connect to Kafka at {connection.bootstrap_servers!r}: {text}")
        case KafkaError(retriable=True) | OSError():
            return BrokerUnavailable(f"{kafka} is not available: {text}")
        case KafkaError() if not isinstance(error, IllegalStateError):
            return BrokerRefused(f"{kafka} refuses: {text}")
    return None
