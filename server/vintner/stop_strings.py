"""placeholder until merge"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = stops
        self._held = ""
        self._include = include

    def feed(self, text: str) -> tuple[str, str | None]:
        text = self._held + text
        hits = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if hits:
            at, stop = min(hits)
            self._held = ""
            return text[: at + (len(stop) if self._include else 0)], stop
        keep = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def finish(self) -> str:
        text, self._held = self._held, ""
        return text
