"""Vectors of words by who keeps whose company, as they are made offline: of all events at once, or by gensim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

DIM = 16
SEED = 1
N_NEGATIVES = 5
WINDOW = 64  # words to each side: the whole event
RATE = 0.1  # in one pass better than gensim's own, 0.025

Vectors = Mapping[str, NDArray[np.float64]]
Sentences = Sequence[Sequence[str]]


def factorize(sentences: Sentences) -> Vectors:
    """The singular value decomposition of the positive pointwise mutual information of words in one event."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    numbers: dict[str, int] = {}
    words = [numbers.setdefault(word, len(numbers)) for sentence in sentences for word in sentence]
    begins = np.cumsum([0, *map(len, sentences)])
    present = csr_matrix((np.ones(len(words)), words, begins), shape=(len(sentences), len(numbers)))
    together = (present.T @ present).tocoo()
    is_pair = together.row != together.col
    row, column, n = together.row[is_pair], together.col[is_pair], together.data[is_pair]
    of_word = np.bincount(row, n, len(numbers))
    information = np.maximum(np.log(n * n.sum() / (of_word[row] * of_word[column])), 0.0)
    shape = (len(numbers), len(numbers))
    left, sizes, _ = svds(csr_matrix((information, (row, column)), shape=shape), k=DIM, random_state=SEED)
    vectors = left * np.sqrt(sizes)
    return {word: vectors[number] for word, number in numbers.items()}


def gensim_ways() -> dict[str, Callable[[Sentences], Vectors]]:
    """gensim's skip-grams in one pass, on one thread, so that they repeat."""
    from gensim.models import FastText, Word2Vec

    def way(kind: type) -> Callable[[Sentences], Vectors]:
        return lambda sentences: kind(
            sentences, vector_size=DIM, window=WINDOW, shrink_windows=False, sg=1, negative=N_NEGATIVES, min_count=1,
            sample=0, epochs=1, alpha=RATE, workers=1, seed=SEED,
        ).wv  # fmt: skip

    return {"gensim word2vec": way(Word2Vec), "gensim fastText": way(FastText)}
