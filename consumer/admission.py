"""Classes between decoding and learning: from a batch's own numbers to the model's, and which are refused."""

from __future__ import annotations

import msgspec
import numpy as np

from flexihash.consumer.consumer_errors import EventRejected
from flexihash.consumer.decoding import Decoded
from flexihash.model.online import OnlineModel


def admit(model: OnlineModel, decoded: Decoded) -> Decoded:
    """The same with the model's numbers for the classes; without events whose class it does not take, now rejected."""
    admitted = model.admit(decoded.labels, decoded.classes)
    labelled = msgspec.structs.replace(decoded, labels=admitted.labels)
    if not admitted.refused:
        return labelled
    refused = {b: EventRejected(reason, message) for b, reason, message in reversed(admitted.refused)}
    is_kept = np.ones(len(decoded.kept), np.bool_)
    is_kept[list(refused)] = False
    return msgspec.structs.replace(
        labelled,
        batch=decoded.batch.pick(is_kept),
        labels=admitted.labels[is_kept],
        weights=decoded.weights[is_kept],
        kept=decoded.kept[is_kept],
        rejections=sorted(
            [*decoded.rejections, *((int(decoded.kept[b]), rejected) for b, rejected in refused.items())],
            key=lambda rejection: rejection[0],
        ),
    )
