"""What can go wrong between the learner and Kafka.

ConsumerError
├── BrokerUnavailable        retriable   no broker answers, or it lost the connection
├── ClientFailed             retriable   the Kafka client broke down; it is rebuilt where it stood
├── AccessDenied                         wrong credentials, or no right to the topic
├── BrokerUntrusted                      its certificate is not one of a broker that we trust
├── BrokerRefused                        the broker answered, and its answer is no
├── ConnectionSettingsError              the connection is described wrongly
├── TopicNotFound                        the topic does not exist
├── PositionsLost                        the log does not go on where the model stands; a person has to choose
│   ├── IdentityChanged                  the positions are of another cluster, or of an earlier topic of that name
│   │   └── RecordChanged                the log holds another record where the model learned its last
│   └── PositionOutOfRange               the log no longer holds, or does not hold yet, a position
├── TopicsForeign                        a checkpoint was learned from other topics
├── Fenced                               another learner has taken over
├── FileUnreadable                       a file cannot be read, or is another one
│   └── LabelMissing                     a table has no column of the label
├── LabelsUnfit                          a file's labels are not what the task learns
├── SpillUnreadable                      dead letters on the local disk cannot be read
├── EventRejected                        an event cannot be learned from
│   └── RowDeleted                       there is nothing to learn, and nothing wrong
├── RecordUnreadable                     the log's bytes at a position are damaged
├── PublishError             retriable   the broker did not acknowledge events in time
│   └── PublishRefused                   the broker will not take them, now or later
└── DeadLetterError          retriable   dead letters are neither acknowledged by the broker nor on the disk
    └── DeadLetterRefused                the broker will not take them, now or later

`retriable` says what a caller should do: try again by itself, or stop until a person has acted. What the person has to
change is called by the names of whoever made the connection, so only a `Fault` is told here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import ClassVar

from flexihash.model.tasks import Task

MAX_NAMED = 100  # columns in a message
Describe = Callable[[object], str]  # an error, or another trouble, in words for people: `str`, or one that knows more


class Fault(Enum):
    """What of a connection a person has to look at."""

    CREDENTIALS = auto()  # user name and password
    MECHANISM = auto()  # of the login
    RIGHTS = auto()  # of the user
    PROTOCOL = auto()
    AUTHORITY = auto()  # that signed the broker's certificate; or the host names are not those in it
    CERTIFICATE = auto()  # of this client, or its key


class ConsumerError(Exception):
    """Any failure of this package; its message is one line that says what and where.

    Args:
        fault: what of the connection has to be looked at, where it is that.
        wanted: what it should be, where that is known.
    """

    retriable: ClassVar[bool] = False

    def __init__(self, message: str = "", fault: Fault | None = None, wanted: str = "") -> None:
        super().__init__(message)
        self.fault = fault
        self.wanted = wanted


class BrokerUnavailable(ConsumerError):
    """No broker answers, or it lost the connection."""

    retriable = True


class ClientFailed(ConsumerError):
    """The Kafka client broke down in a way of its own; it is rebuilt where it stood."""

    retriable = True


class AccessDenied(ConsumerError):
    """Wrong credentials, or no right to the topic."""


class BrokerUntrusted(ConsumerError):
    """The broker's certificate is of another host, has run out, or is signed by nobody whom we trust."""


class BrokerRefused(ConsumerError):
    """The broker answered, and its answer is no."""


class ConnectionSettingsError(ConsumerError):
    """The connection is described wrongly: an address, a protocol, a certificate."""


class TopicNotFound(ConsumerError):
    """The topic does not exist."""

    def __init__(self, topic: str, bootstrap_servers: str) -> None:
        super().__init__(
            f"topic {topic!r} does not exist on {bootstrap_servers}: check the name, or create it, for instance with"
            f" kafka-topics.sh --bootstrap-server {bootstrap_servers} --create --topic {topic}"
        )
        self.topic = topic


class PositionsLost(ConsumerError):
    """The log does not go on where the model stands. Nothing is skipped or repeated until a person has chosen."""


class IdentityChanged(PositionsLost):
    """The positions belong to another cluster, or to an earlier topic of the same name."""

    def __init__(self, kind: str, topic: str, expected: str, found: str) -> None:
        super().__init__(
            f"the model's positions in topic {topic!r} are of {kind} {expected}, but this is {kind} {found}, where they"
            f" mean nothing; connect to the old {kind}"
        )
        self.kind, self.topic, self.expected, self.found = kind, topic, expected, found


class RecordChanged(IdentityChanged):
    """The log holds another record where the model learned its last: it was restored from a backup and written on."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        PositionsLost.__init__(
            self,
            f"{topic}[{partition}]@{offset} is not the record that the model learned there: the log was restored from a"
            " backup, or written anew, and from some offset before on it holds records that the model has not seen; go"
            " back to a checkpoint from before them",
        )
        self.topic, self.partition, self.offset = topic, partition, offset


class PositionOutOfRange(PositionsLost):
    """The log no longer holds, or does not hold yet, a position.

    Args:
        log_start: the first offset that the log still holds; None where it is not known.
        log_end: the offset that the next record will get; None where it is not known.
    """

    def __init__(self, topic: str, partition: int, position: int, log_start: int | None, log_end: int | None) -> None:
        if log_start is None or log_end is None:
            what = "the log does not hold it"
        elif position < log_start:
            n_removed = log_start - position
            what = f"the log begins at {log_start}: {n_removed} records were removed before they were learned"
        else:
            what = f"the log ends at {log_end}: it lost records that were learned, or is another one"
        super().__init__(f"cannot read on from {topic}[{partition}]@{position}: {what}; restore the log")
        self.topic, self.partition, self.position = topic, partition, position
        self.log_start, self.log_end = log_start, log_end


class TopicsForeign(ConsumerError):
    """A checkpoint was learned from other topics; a person has to say that it is to be gone on from all the same."""

    def __init__(self, path: Path, topics: Sequence[str], topic: str) -> None:
        super().__init__(
            f"{path} was learned from {', '.join(topics)}, not from topic {topic!r}: choose another checkpoint_dir"
        )
        self.topics, self.topic = topics, topic


class Fenced(ConsumerError):
    """Another learner of the same topic and group has taken over; this one must not write any more."""

    def __init__(self, transactional_id: str) -> None:
        super().__init__(
            f"another learner has taken over (transactional id {transactional_id}): this one has stopped and saves"
            " nothing more, and goes on by itself once the other has ended; stop one of the two"
        )
        self.transactional_id = transactional_id


class RecordUnreadable(ConsumerError):
    """The log's bytes at a position are damaged, or packed in a way that the client does not know."""


class PublishError(ConsumerError):
    """The broker did not acknowledge events in time; some of them may be in the log all the same."""

    retriable = True


class PublishRefused(PublishError):
    """The broker will not take the events, now or later."""

    retriable = False


class DeadLetterError(ConsumerError):
    """Dead letters are neither acknowledged by the broker nor on the disk; the next flush goes on with them."""

    retriable = True


class DeadLetterRefused(DeadLetterError):
    """The broker will not take a dead letter, now or later, and it may not be put on the disk; a person has to act."""

    retriable = False


class FileUnreadable(ConsumerError):
    """The file cannot be read, or is not the one that was learned from before."""


class LabelMissing(FileUnreadable):
    """No column of a table has the name of the label."""

    def __init__(self, path: Path, label: str, columns: Sequence[str], has_values: bool) -> None:
        rest = len(columns) - MAX_NAMED
        named = ", ".join(columns[:MAX_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
        hint = "; is its first line a row? It has to name the columns" if has_values else ""
        super().__init__(f"{path} has no column {label!r}; its columns are {named}{hint}")


class LabelsUnfit(ConsumerError):
    """So many labels are numbers that the task does not know, or texts, that another task must be meant."""

    def __init__(self, path: Path, n_unfit: int, n_labels: int, examples: set[float] | set[str], task: Task) -> None:
        shown = ", ".join(f'"{label[:40]}"' if isinstance(label, str) else f"{label:g}" for label in sorted(examples))
        kind = "0 or 1" if task.record.is_binary else "what it learns"
        super().__init__(f"{path}: {n_unfit:,} of the first {n_labels:,} labels are not {kind} (task={task}): {shown}")
        self.task = task
        self.are_texts = any(isinstance(label, str) for label in examples)


class SpillUnreadable(ConsumerError):
    """Dead letters that wait on the local disk cannot be read, so nobody would send them."""

    def __init__(self, folder: Path, cause: OSError) -> None:
        super().__init__(
            f"cannot read the dead letters in {folder}: {cause.strerror or cause}; mend its rights, or move it away"
        )


class EventRejected(ConsumerError):
    """An event cannot be learned from; it goes to the dead letters.

    Args:
        reason: a short slug for counting.
        message: what is wrong, for people.
        key: the feature or field at fault, where it is one.
    """

    def __init__(self, reason: str, message: str, key: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.key = key


class RowDeleted(EventRejected):
    """A message tells of a row that is gone: there is nothing to learn, and nothing wrong; no dead letter is kept."""
