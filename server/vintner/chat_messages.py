"""Messages of a chat as a template wants them: parts of text joined, arguments of tool calls as objects.

Knows what a template expects, and neither the template nor who sent the messages. Invariant: what comes out is made of
new lists and mappings wherever it differs from what came in, which is never changed; everything that is not a text is
refused by name. The rules are vLLM's, which clients expect: texts of several parts are joined by a newline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vintner.errors import InvalidArgument
from vintner.template_usage import TemplateUsage

MOST_MESSAGES: Final = 16_384
USUAL: Final = ("system", "user", "assistant", "tool")
"""Roles that a template knows, or refuses."""
_TEXTS: Final = {"text": "text", "refusal": "refusal"}


def messages_for(usage: TemplateUsage, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Raises InvalidArgument for what is no message of texts; an error names the place as `messages[2].content[0]`."""
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence) or not messages:
        raise InvalidArgument("messages must be an array of at least one message")
    if len(messages) > MOST_MESSAGES:
        raise InvalidArgument(f"there are {len(messages)} messages, at most {MOST_MESSAGES} are allowed")
    return [_message(usage, message, f"messages[{place}]") for place, message in enumerate(messages)]


def check_shown(messages: Sequence[Mapping[str, Any]], prompt: str) -> None:
    """Raises InvalidArgument for a role that a template passes over without a word, as many do with those that they do
    not know. Messages are looked for in their order."""
    seen = 0
    for place, message in enumerate(messages):
        if message["role"] in USUAL:
            continue
        for text in _texts(message):
            seen = prompt.find(text.strip(), seen)
            if seen < 0:
                role = message["role"][:64]
                raise InvalidArgument(f"messages[{place}].role: the chat template does not show '{role}'")


def _texts(message: Mapping[str, Any]) -> Sequence[str]:
    content = message.get("content") or ()
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def _message(usage: TemplateUsage, message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidArgument(f"{where} must be an object with role and content")
    if not isinstance(message.get("role"), str):
        raise InvalidArgument(f"{where}.role must be a string")
    shaped = dict(message)
    if message["role"] == "developer" and "developer" not in usage.words:
        shaped["role"] = "system"  # what OpenAI called it before, and most templates still do
    if "content" in message:
        shaped["content"] = _content(usage, message["content"], f"{where}.content")
    if message.get("tool_calls") is not None:
        shaped["tool_calls"] = _tool_calls(usage, message["tool_calls"], f"{where}.tool_calls")
    return shaped


def _content(usage: TemplateUsage, content: Any, where: str) -> Any:
    if content is None:
        return None
    if isinstance(content, str):
        return content if usage.strings or not usage.parts else [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise InvalidArgument(f"{where} must be a string or an array of content parts")
    texts = [_text(part, f"{where}[{place}]") for place, part in enumerate(content)]
    return [{"type": "text", "text": text} for text in texts] if usage.parts else "\n".join(texts)


def _text(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise InvalidArgument(f'{where} must be an object like {{"type": "text", "text": "..."}}')
    if kind not in _TEXTS:
        raise InvalidArgument(f"{where}: content of type '{kind[:64]}' is not supported, only 'text' is")
    text = part.get(_TEXTS[kind])
    if not isinstance(text, str):
        raise InvalidArgument(f"{where}.{_TEXTS[kind]} must be a string")
    return text


def _tool_calls(usage: TemplateUsage, calls: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        raise InvalidArgument(f"{where} must be an array")
    return [_tool_call(usage, call, f"{where}[{place}]") for place, call in enumerate(calls)]


def _tool_call(usage: TemplateUsage, call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidArgument(f"{where}.function must be an object with a name")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    given = json.dumps(arguments, ensure_ascii=False) if usage.arguments_as_text else arguments
    if usage.arguments_as_text and isinstance(function.get("arguments"), str):
        given = function["arguments"] or "{}"
    return {**call, "function": {**function, "arguments": given}}


def _arguments(arguments: Any, where: str) -> Any:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as exc:
            raise InvalidArgument(f"{where} must be the text of a JSON object: {exc}") from None
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise InvalidArgument(f"{where} must be the text of a JSON object")
    return arguments
