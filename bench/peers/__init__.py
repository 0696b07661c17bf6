"""Other learners on the same events: Vowpal Wabbit, scikit-learn, River, LightGBM, CapyMOA.

A peer is given JSON messages and predicts each before it learns from it, in stream order, with the library's defaults:
nothing is tuned, for nobody. What a peer may do before its clock starts is to its advantage: build its model, write
messages in its own JSON shape, or see which categories there are. Parsing JSON is on its clock, by msgspec unless the
library has a parser. A binary prediction is the probability of 1.
"""

from __future__ import annotations

import warnings

from bench.peers import boosting, forests, river, sgd, vw
from bench.peers.peer import Peer

__all__ = ["Peer", "all_peers", "quiet"]


def all_peers() -> tuple[list[Peer], list[str]]:
    """Those that can be run here, the ones in Java last; and what is missing, with what to do."""
    peers = [*vw.PEERS, *sgd.PEERS, *river.PEERS]
    reasons = []
    for library in (boosting, forests):
        reason = library.missing()
        if reason is None:
            peers += library.PEERS
        else:
            reasons.append(reason)
    return peers, reasons


def quiet() -> None:
    """River and SGD overflow on raw or unseen numbers, and say so thousands of times; the loss shows it."""
    warnings.simplefilter("ignore", RuntimeWarning)
    warnings.simplefilter("ignore", UserWarning)
