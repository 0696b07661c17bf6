"""What a person can do about an error: the names of settings, options and pages, which only the service knows."""

from __future__ import annotations

from flexihash.consumer.consumer_errors import (
    ConsumerError,
    Fault,
    Fenced,
    IdentityChanged,
    LabelsUnfit,
    PositionOutOfRange,
    RecordChanged,
    TopicNotFound,
    TopicsForeign,
)
from flexihash.model.tasks import Task

FAULTS = {
    Fault.CREDENTIALS: "; check FLEXIHASH_SASL_USERNAME and FLEXIHASH_SASL_PASSWORD",
    Fault.MECHANISM: "; check FLEXIHASH_SASL_MECHANISM",
    Fault.RIGHTS: " that docs/operations.md lists",
    Fault.PROTOCOL: " See FLEXIHASH_SECURITY_PROTOCOL",
    Fault.AUTHORITY: "; check the host names in FLEXIHASH_BOOTSTRAP_SERVERS, and that FLEXIHASH_SSL_CAFILE is of the"
    " authority that signed it",
    Fault.CERTIFICATE: "; check FLEXIHASH_SSL_CERTFILE and FLEXIHASH_SSL_KEYFILE",
}

OTHER_TASKS = {
    Task.BINARY: ", or choose --task regression for quantities, or counts for counts; a class can be learned as yes or"
    " no, with 1 for it and 0 for all others",
    Task.COUNTS: ", or choose --task regression for quantities that may be negative",
}


def advise(error: object) -> str:
    """An error in words, with what to do about it behind where that has a name of ours."""
    return f"{error}{_advice(error)}"


def _advice(error: object) -> str:
    match error:
        case RecordChanged():
            return (
                ", or choose with --on-lost-position: earliest (keep the model, read all of the log again), latest"
                " (keep the model, read what comes from now on), keep (keep the model, go on behind that record), fresh"
                " (start a new model)"
            )
        case IdentityChanged():
            return (
                ", or choose with --on-lost-position: earliest (keep the model, read all of this one), latest (keep the"
                " model, read what comes from now on), keep (this one is a faithful copy with the same offsets), fresh"
                " (start a new model; right after a restart of `flexihash broker`, which keeps nothing)"
            )
        case TopicsForeign():
            return ", or --adopt the model: it keeps what it learned, and begins the topic where --start-at says"
        case PositionOutOfRange():
            return (
                ", or choose with --on-lost-position: earliest (keep the model, go on at the log's first record),"
                " latest (keep the model, go on at the log's end), fresh (start a new model)"
            )
        case TopicNotFound():
            return "; `flexihash serve --create-topic` makes it at its start"
        case LabelsUnfit(task=task):
            return f"; mend them{OTHER_TASKS.get(task, '')}"
        case Fenced():
            return ", or give this one another FLEXIHASH_GROUP_ID and checkpoint folder"
        case ConsumerError(fault=Fault.PROTOCOL, wanted=str(wanted)) if wanted:
            return f": set FLEXIHASH_SECURITY_PROTOCOL to {wanted}, or name another port"
        case ConsumerError(fault=Fault() as fault):
            return FAULTS[fault]
    return ""
