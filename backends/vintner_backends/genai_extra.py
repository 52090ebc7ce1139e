"""Packages that only models of texts need: all of them come with the extra `genai`."""

from __future__ import annotations

from vintner.errors import LoadError


def missing(package: str, reason: ImportError | None = None) -> LoadError:
    """What a model that needs the package is told by."""
    detail = f" ({reason})" if reason is not None else ""
    return LoadError(f"the model needs the package {package}: pip install 'vintner[genai]'{detail}")
