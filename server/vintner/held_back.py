"""How much of a growing text may still become one of several markers."""

from __future__ import annotations

from collections.abc import Iterable


def beginning_of(markers: Iterable[str], text: str) -> int:
    """The length of the longest end of the text that begins one of the markers and is shorter than it."""
    return max((_beginning(marker, text) for marker in markers), default=0)


def _beginning(marker: str, text: str) -> int:
    start = max(0, len(text) - len(marker) + 1)
    while (start := text.find(marker[0], start)) >= 0:
        if marker.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0
