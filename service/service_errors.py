"""Errors of the service package.

ServiceError
├── SettingsError         settings that cannot be used (service.settings)
├── AddressError          the address to listen on cannot be had (service.supervisor)
├── EmbeddedBrokerError   the embedded broker cannot be had (service.embedded_broker)
├── LearnerBusy           another learner holds the memory folder or that of the checkpoints (service.folders)
├── FolderError           such a folder cannot be written, or is not ours alone (service.folders)
├── FormerCheckpoints     checkpoints lie where the default folder was once (service.settings)
├── DemoError             the demo cannot go on (service.family)
└── Problem               an error that an HTTP client is told of (service.problems)
"""

from __future__ import annotations

from pathlib import Path


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


class FormerCheckpoints(ServiceError):
    """Checkpoints lie in the folder that was the default once, and would be passed over without a word."""

    def __init__(self, former: Path, now: Path) -> None:
        super().__init__(
            f"{former} itself holds checkpoints, as it did when it was the default folder of all topics; now that is"
            f" {now}. To go on with them: mkdir {now}, and move all the rest of {former} there, or set"
            f" FLEXIHASH_CHECKPOINT_DIR={former}. To start afresh: move them elsewhere"
        )


class DemoError(ServiceError):
    """The demo cannot go on; the message ends with the service's last log lines where there are any."""
