"""Texts: the words of a string.

A word is a run of letters and digits of any script, as `str.isalnum` has them, with the marks on them, in Unicode's
form NFC and in lower case. LOWERED says the same of the characters that most texts of alphabets are made of, for
compiled code.
"""

from __future__ import annotations

import unicodedata
from itertools import islice

import numpy as np
from numpy.typing import NDArray

N_LETTERS = 0x800  # characters of one byte or two in UTF-8: Latin, Greek, Cyrillic, Hebrew, Arabic and others
PUNCTUATION, N_PUNCTUATION = 0x2000, 0x100  # dashes, quotes, bullets and the like, and signs of currencies
LEFT = 0xFFFF  # in LOWERED: what this character does to a word is not so simple
MOST_CACHED = 0x3000  # characters below are looked up once


class _Separators(dict[int, str]):
    """For `str.translate`: a space for each character that is no part of a word."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        found = character if _is_of_word(character) else " "
        if code < MOST_CACHED:
            self[code] = found
        return found


_SEPARATORS = _Separators()


def _is_of_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")


def find_words(text: str, most: int) -> list[str]:
    """The words of a text, each once, in the order in which they first come; the first `most` of them."""
    words = unicodedata.normalize("NFC", text).translate(_SEPARATORS).lower().split()
    return list(islice(dict.fromkeys(words), most))


def _lower_simply(code: int) -> int:
    """Of a character: its lower case's UTF-8 as a number, the first byte lowest; 0: it parts words; or LEFT."""
    character = chr(code)
    if unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
        return LEFT  # NFC may join it to the one before it
    if not _is_of_word(character):
        return 0
    lowered = character.lower().encode()
    is_simple = len(character.encode()) == len(lowered) <= 2 and character != "Σ"  # whose lower case has two forms
    return int.from_bytes(lowered, "little") if is_simple else LEFT


def _lower_all() -> NDArray[np.uint16]:
    codes = (*range(N_LETTERS), *range(PUNCTUATION, PUNCTUATION + N_PUNCTUATION))
    return np.array([_lower_simply(code) for code in codes], np.uint16)


LOWERED = _lower_all()  # (N_LETTERS + N_PUNCTUATION,)
