"""Where a model's directory keeps its chat template and the special tokens that it uses.

Reads Hugging Face's files as transformers does, and the tokenizer that optimum-intel converts. Invariant: nothing but
files directly in the directory, or in its `additional_chat_templates`, is read; a broken one is ConfigError and names
the file, an absent one is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from vintner.errors import ConfigError
from vintner.json_files import read_object
from vintner.template_rendering import ChatTemplate

__all__ = ["ChatTemplate", "read_template"]

_DEFAULT: Final = "default"
_WITH_TOOLS: Final = "tool_use"


def read_template(directory: Path, filename: str | None = None) -> ChatTemplate | None:
    """The template of the model in a directory, in the file of that name if there is one; None if it has none. Raises
    ConfigError.

    `chat_template.jinja` comes before `chat_template.json`, that before `tokenizer_config.json`, and all of them before
    the copy in `openvino_tokenizer.xml`. Of several named ones `default` is taken, and `tool_use` for requests with
    tools.
    """
    settings = read_object(directory / "tokenizer_config.json")
    if filename is not None:
        return _made(directory / filename, {_DEFAULT: _text(directory / filename)}, _tokens(directory, settings))
    for file, sources in _candidates(directory, settings):
        if sources:
            return _made(file, sources, _tokens(directory, settings))
    return None


def _candidates(directory: Path, settings: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, str]]]:
    yield directory / "chat_template.jinja", _jinja_files(directory)
    for name in ("chat_template.json", "tokenizer_config.json"):
        file = directory / name
        kept = settings if name == "tokenizer_config.json" else read_object(file)
        yield file, _named(kept.get("chat_template"), file)
    converted = directory / "openvino_tokenizer.xml"
    yield converted, _in_converted(converted)


def _made(file: Path, sources: Mapping[str, str], tokens: Mapping[str, str]) -> ChatTemplate:
    plain = sources.get(_DEFAULT, sources.get(_WITH_TOOLS))
    if plain is None:
        raise ConfigError(
            f"{file.name}: of the chat templates {', '.join(sorted(sources))} none is called '{_DEFAULT}'"
        )
    try:
        return ChatTemplate(plain, tokens, with_tools=sources.get(_WITH_TOOLS))
    except ConfigError as exc:
        raise ConfigError(f"{file.name}: {exc}") from exc


def _jinja_files(directory: Path) -> dict[str, str]:
    found = {}
    if (directory / "chat_template.jinja").is_file():
        found[_DEFAULT] = _text(directory / "chat_template.jinja")
    for file in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = _text(file)
    return found


def _named(templates: Any, file: Path) -> dict[str, str]:
    """Hugging Face writes one template as a string, several as a list of `{"name": ..., "template": ...}`."""
    if templates is None:
        return {}
    if isinstance(templates, str):
        return {_DEFAULT: templates}
    try:
        named = {str(entry["name"]): entry["template"] for entry in templates}
    except (TypeError, KeyError):
        named = {"": None}
    if not all(isinstance(template, str) for template in named.values()):
        raise ConfigError(f"{file.name}: chat_template must be a string or a list of objects with name and template")
    return named


def _in_converted(file: Path) -> dict[str, str]:
    """From the model's own `rt_info`, which comes last; what was read before is dropped, for it may be large."""
    depth = 0
    try:
        for event, element in ElementTree.iterparse(file, events=("start", "end")):
            depth += 1 if event == "start" else -1
            if event == "end" and depth == 1:
                found = element.find("chat_template") if element.tag == "rt_info" else None
                if found is not None:
                    return _named(found.get("value") or None, file)
                element.clear()
            elif event == "end" and depth == 2 and element.tag in ("layer", "edge"):
                element.clear()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigError(f"{file.name}: cannot be read: {exc.strerror}") from exc
    except ElementTree.ParseError as exc:
        raise ConfigError(f"{file.name}: {exc}") from exc
    return {}


def _tokens(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for kept in (read_object(directory / "special_tokens_map.json"), settings):
        for key, token in kept.items():
            text = token.get("content") if isinstance(token, dict) else token
            if key.endswith("_token") and isinstance(text, str):
                tokens[key] = text
    return tokens


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{file.name}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file.name}: {exc}") from exc
