"""The labels of a model's classes: files beside its versions, with one label a line.

Knows the configuration and the files, no outputs. Invariant: only plain names in the model's own directory are opened;
that these are no links out of the repository has been seen to where the directory was read (`contents`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vintner.errors import LoadError
from vintner.model_config import ModelConfig

Labels = Mapping[str, Sequence[bytes]]
"""Of each output that has any, by the name that it is served by."""


def read_labels(config: ModelConfig, root: Path) -> Labels:
    """`root` is the model's directory. Raises LoadError for a file that cannot be read."""
    return {
        output.name or own: _read(own, root / output.labels) for own, output in config.outputs.items() if output.labels
    }


def _read(output: str, file: Path) -> Sequence[bytes]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise LoadError(
            f"the labels of output '{output}' cannot be read: {file.name}: {exc.strerror}; it is looked for in the"
            " model's directory, beside its versions"
        ) from exc
    except UnicodeDecodeError as exc:
        raise LoadError(f"the labels of output '{output}' are not UTF-8: {file.name}: {exc}") from exc
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r").encode() for line in lines]
