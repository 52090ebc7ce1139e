"""From the tokens of texts to the arrays that an encoder takes: special tokens, truncation, padding, groups by length.

Pure NumPy; knows no runtime library. Invariant: every text is in one group, and padding is on the right and masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from vintner.errors import ContextExceeded
from vintner.types import Array

GROUP_TOKENS: Final = 512
"""Tokens, padding included, that are run together. On a CPU more of them take longer for each, as they leave its
caches: MiniLM's 384 values took 1.3 times as long with 2560 tokens as with 320."""

RUN_TOKENS: Final = 64
"""Tokens of padding that are worth another run: what a run costs beyond its tokens. Measured on one core, that is about
20 of MiniLM's, for which the weights have to be fetched, and 70 of those of an encoder of 50,000 parameters."""


@dataclass(frozen=True, slots=True)
class Template:
    """How texts become one sequence: each part is a special token, or a negative number, -1 for the first text, -2 for
    the second. `types` has a segment for each part."""

    parts: tuple[int, ...]
    types: tuple[int, ...]

    @property
    def special(self) -> int:
        """How many tokens it adds."""
        return sum(part >= 0 for part in self.parts)

    def fill(self, texts: Sequence[Array]) -> tuple[Array, Array]:
        """The ids and the segments of one sequence, int64 [tokens]."""
        pieces = [np.array([part]) if part >= 0 else texts[-part - 1] for part in self.parts]
        if not pieces:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        types = np.repeat(np.array(self.types, np.int64), [len(piece) for piece in pieces])
        return np.concatenate(pieces).astype(np.int64), types


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences of a batch: ids and segments of each."""

    ids: Sequence[Array]
    types: Sequence[Array]

    @property
    def lengths(self) -> Array:
        """Tokens of each, int64."""
        return np.fromiter(map(len, self.ids), np.int64, len(self.ids))


def sequences(template: Template, rows: Sequence[Sequence[Array]], limit: int, truncate: bool) -> Sequences:
    """One sequence of each row's texts.

    Raises ContextExceeded for one of more than `limit` tokens, unless such are to be cut.
    """
    filled = [template.fill(_fitting(row, limit - template.special, limit, truncate)) for row in rows]
    return Sequences([ids for ids, _ in filled], [types for _, types in filled])


def _fitting(texts: Sequence[Array], room: int, limit: int, truncate: bool) -> Sequence[Array]:
    tokens = sum(map(len, texts))
    if tokens <= room:
        return texts
    if not truncate:
        special = limit - room
        raise ContextExceeded(
            f"{'the text has' if len(texts) == 1 else 'query and document have'} {tokens + special} tokens, and the"
            f" model takes at most {limit}"
        )
    return cut(texts, max(0, room))


def cut(texts: Sequence[Array], room: int) -> Sequence[Array]:
    """The beginnings of one text or two, the longer one cut first: `longest_first`, as Hugging Face's tokenizers do."""
    if len(texts) == 1:
        return [texts[0][:room]]
    first, second = texts
    shorter = min(len(first), len(second), room // 2)
    if len(first) <= len(second):
        return [first[:shorter], second[: room - shorter]]
    return [first[: room - shorter], second[:shorter]]


def groups(lengths: Array) -> Iterator[Array]:
    """Indices of the sequences to run together, so that little of a run is padding."""
    order = np.argsort(lengths, kind="stable")[::-1]
    start, longest, padding = 0, 0, 0
    for place, index in enumerate(order):
        length = max(1, int(lengths[index]))
        padding += longest - length
        rows = place - start
        if rows and (padding > RUN_TOKENS or (rows + 1) * longest > GROUP_TOKENS):
            yield order[start:place]
            start, longest, padding = place, length, 0
        elif not rows:
            longest, padding = length, 0
    if len(order):
        yield order[start:]


def padded(given: Sequence[Array], fill: int) -> Array:
    """Sequences as one array, int64 [sequences, tokens of the longest], of a column at least."""
    width = max(1, *map(len, given)) if given else 1
    array = np.full((len(given), width), fill, np.int64)
    for row, one in zip(array, given, strict=True):
        row[: len(one)] = one
    return array


def mask(lengths: Array) -> Array:
    """1 where a token is, int64 [sequences, tokens of the longest]; one of no tokens has its padding as one."""
    lengths = np.maximum(lengths, 1)
    return (np.arange(lengths.max(initial=1)) < lengths[:, None]).astype(np.int64)
