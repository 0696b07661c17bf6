"""Errors of the service package.

ServiceError
├── SettingsError         settings that cannot be used (service.settings)
├── AddressError          the address to listen on cannot be had (service.supervisor)
├── EmbeddedBrokerError   the embedded broker cannot be had (service.embedded_broker)
├── LearnerBusy           another learner holds the memory folder or that of the checkpoints (service.folders)
├── FolderError           such a folder cannot be written, or is not ours alone (service.folders)
├── DemoError             the demo cannot go on (service.family)
└── Problem               an error that an HTTP client is told of (service.problems)
"""

from __future__ import annotations


class ServiceError(Exception):
    """Root of what this package raises; a message says what, where and what to do."""


class SettingsError(ServiceError):
    """Settings that cannot be used; one line each: the setting, its value (never a secret) and what is allowed."""


class AddressError(ServiceError):
    """The address to listen on cannot be had; names host:port."""


class LearnerBusy(ServiceError):
    """Another learner holds the memory folder or that of the checkpoints; names it."""


class FolderError(ServiceError):
    """The memory folder or that of the checkpoints cannot be used; names it, its setting and the reason."""


class DemoError(ServiceError):
    """The demo cannot go on; the message ends with the service's last log lines where there are any."""
