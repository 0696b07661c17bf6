"""What a person can do about an error: the names of settings, options and pages, which only the service knows."""

from __future__ import annotations

from flexihash.consumer.consumer_errors import (
    ConsumerError,
    Fault,
    Fenced,
    IdentityChanged,
    LabelMissing,
    LabelsUnfit,
    PositionOutOfRange,
    RecordChanged,
    TopicNotFound,
    TopicsForeign,
)
from flexihash.consumer.status import UNLABELLED, RecentStatus
from flexihash.model.model_errors import EmbeddingsOff
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
    Task.BINARY: ", or choose --task regression for quantities, or counts for counts; multiclass, where whole"
    " numbers are names of classes",
    Task.COUNTS: ", or choose --task regression for quantities that may be negative",
    Task.MULTICLASS: ", or choose --task regression for quantities",
}


NO_EVENTS = "is FLEXIHASH_TOPIC one of JSON events?"
UNTAUGHT = {
    UNLABELLED: "does FLEXIHASH_LABEL_FIELD name the label?",
    "bad_label": "do FLEXIHASH_LABEL_FIELD and FLEXIHASH_TASK fit the labels?",
    "no_features": "does FLEXIHASH_FEATURES_FIELD name the features? Where it is empty, they are the whole event",
    "deleted": "that rows are deleted is no fault",
    "no_envelope": "does FLEXIHASH_ENVELOPE say what the events are in?",
    "empty": NO_EVENTS,
    "not_utf8": NO_EVENTS,
    "not_json": NO_EVENTS,
    "not_an_object": NO_EVENTS,
    "too_large": "raise FLEXIHASH_MAX_EVENT_BYTES, if events are to be so large",
    "too_deep": "raise FLEXIHASH_MAX_DEPTH, if events are to be so deep; does FLEXIHASH_FEATURES_FIELD fit?",
    "too_many_features": "raise FLEXIHASH_MAX_FEATURES, if there are to be so many; does FLEXIHASH_FEATURES_FIELD fit?",
    "key_too_long": "raise FLEXIHASH_MAX_KEY_LENGTH, if names are to be so long",
    "non_finite_number": "whoever writes them has to mend their numbers",
    "bad_weight": "whoever writes them has to mend their field weight, or name it otherwise",
    "not_finite": "does FLEXIHASH_LABEL_FIELD name the label? Labels or numbers are beyond all that can be learned",
    "poison": "the learner dies of them: please report it",
    "unknown_type": "whoever writes them has to mend their values",
    "not_unicode": "whoever writes them has to mend their names",
}
"""What to look at where most records teach nothing, by the most frequent reason."""


def advise(error: object) -> str:
    """An error, or another trouble, in words, with what to do about it behind where that has a name of ours."""
    return f"{error}{_advice(error)}"


def _advice(error: object) -> str:
    match error:
        case RecentStatus(reason=str(reason)):
            return f": {UNTAUGHT[reason]}" if reason in UNTAUGHT else ""
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
        case LabelMissing():
            return "; --label names that of the label"
        case LabelsUnfit(are_texts=True):
            return "; choose --task multiclass, where they are classes, or say by --positive-labels which are 1"
        case LabelsUnfit(task=task):
            return f"; mend them{OTHER_TASKS.get(task, '')}"
        case EmbeddingsOff():
            return (
                ": set FLEXIHASH_EMBEDDINGS=true, and FLEXIHASH_CHECKPOINT_DIR to an empty folder, so that the log is"
                ' learned again; or ask for the kind "task"'
            )
        case Fenced():
            return ", or give this one another FLEXIHASH_GROUP_ID and checkpoint folder"
        case ConsumerError(fault=Fault.PROTOCOL, wanted=str(wanted)) if wanted:
            return f": set FLEXIHASH_SECURITY_PROTOCOL to {wanted}, or name another port"
        case ConsumerError(fault=Fault() as fault):
            return FAULTS[fault]
    return ""
