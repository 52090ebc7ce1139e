"""A `config.json` that may change while the server runs.

Knows where the file lies and what it said last; what it means is `ovms_config`'s. Invariant: `models` is what the last
good content asks for, so a file that is broken, gone or half-written takes no model away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from vintner.errors import ConfigError
from vintner.ovms_config import ModelList, parse_model_list
from vintner.repository import GivenModel

logger = logging.getLogger(__name__)


class ConfigFileMissing(ConfigError):
    """The file is not there, or cannot be opened."""


class OvmsFile:
    """Threads: one at a time."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError as `read`."""
        self._path = path
        self._content: bytes | None = None
        self._list = ModelList((), ())
        self._problem = ""
        self.read()

    @property
    def models(self) -> Sequence[GivenModel]:
        """What is asked for by now; trouble with the file is logged, once."""
        try:
            return self.read()
        except ConfigError as exc:
            if str(exc) != self._problem:
                logger.error("%s; what it asked for before still holds", exc)
            self._problem = str(exc)
            return self._list.models

    def read(self) -> Sequence[GivenModel]:
        """The same, where trouble is raised: ConfigFileMissing, or ConfigError for what the file says."""
        try:
            content = self._path.read_bytes()
        except OSError as exc:
            raise ConfigFileMissing(f"cannot read {self._path}: {exc.strerror}") from exc
        if content != self._content:
            try:
                self._list = parse_model_list(content, self._path.parent)
            except ConfigError as exc:
                raise ConfigError(f"{self._path}: {exc}") from exc
            self._content = content
            for remark in self._list.remarks:
                logger.warning("%s: %s", self._path, remark)
        self._problem = ""
        return self._list.models
