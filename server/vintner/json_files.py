"""JSON files beside a model, as Hugging Face and its tools write them: each holds one object.

Knows none of them. Invariant: a file that is not there is as good as an empty object, for none of them has to be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vintner.errors import ConfigError


def read_object(file: Path) -> dict[str, Any]:
    """Raises ConfigError, with the file's name, for one that cannot be read or holds no object."""
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigError(f"{file.name}: cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{file.name}: not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{file.name}: expected a JSON object, got {document!r:.60}")
    return document
