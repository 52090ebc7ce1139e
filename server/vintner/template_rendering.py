"""A model's chat template: from messages to the prompt that the model was trained on.

Renders as transformers' `apply_chat_template` does, without it. Knows nothing of tokens as numbers, of HTTP or of a
runtime. Invariant: the template comes with the model and is trusted as far as the sandbox allows; messages, tools and
keyword arguments come from clients and are only ever data in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from jinja2 import Template, TemplateSyntaxError

from vintner.chat_messages import check_shown, messages_for
from vintner.errors import ConfigError, InvalidArgument
from vintner.template_environment import environment, written_by
from vintner.template_usage import usage_of

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_OURS: Final = frozenset(("messages", "tools", "add_generation_prompt", "continue_final_message"))
_LAST: Final = "CONTINUE_FINAL_MESSAGE_TAG "  # transformers' own: a template may strip the end of a message


class ChatTemplate:
    """One template, or two if a model has another for requests with tools. Renders from any thread.

    `tokens` are the special tokens that templates use by name: `bos_token`, `eos_token`. Raises ConfigError for
    source that is not Jinja2, or that uses a filter or a test that there is not.
    """

    def __init__(
        self,
        source: str,
        tokens: Mapping[str, str],
        *,
        with_tools: str | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.source = source
        self.tokens = dict(tokens)
        self._plain = _Compiled(source, now)
        self._with_tools = self._plain if with_tools is None else _Compiled(with_tools, now)

    @property
    def source_with_tools(self) -> str:
        """Of the one that requests with tools get: what their answers' parser is chosen by."""
        return self._with_tools.source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        kwargs: Mapping[str, Any] = _NOTHING,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> str:
        """The prompt. `continue_final_message` leaves the last message open, for the model to write on.

        Raises InvalidArgument, with the template's own reason where it gives one.
        """
        if continue_final_message and add_generation_prompt:
            raise InvalidArgument("continue_final_message and add_generation_prompt exclude one another")
        compiled = self._compiled(tools)
        self._check_kwargs(compiled, kwargs)
        given = messages_for(compiled.usage, messages)
        shown = given[:]
        if continue_final_message:
            given[-1] = _marked(given[-1])
        values = {"documents": None, **self.tokens, **kwargs, "messages": given, "tools": tools}
        rendered = written_by(compiled.template, {**values, "add_generation_prompt": add_generation_prompt})
        check_shown(shown, rendered)
        return _before_mark(rendered) if continue_final_message else rendered

    def _compiled(self, tools: Sequence[Mapping[str, Any]] | None) -> _Compiled:
        return self._with_tools if tools else self._plain

    def _check_kwargs(self, compiled: _Compiled, kwargs: Mapping[str, Any]) -> None:
        taken = sorted(str(name) for name in kwargs if name in _OURS or name in self.tokens or name in compiled.globals)
        if taken:
            raise InvalidArgument(f"chat_template_kwargs must not set '{taken[0][:64]}', which the server sets")


class _Compiled:
    def __init__(self, source: str, now: Callable[[], datetime]) -> None:
        sandbox = environment(now)
        self.source = source
        try:
            self.template: Template = sandbox.from_string(source)
            self.usage = usage_of(sandbox.parse(source))
        except TemplateSyntaxError as exc:
            raise ConfigError(f"the chat template is not valid Jinja2: {exc.message} (line {exc.lineno})") from exc
        except RecursionError as exc:
            raise ConfigError("the chat template nests too deep") from exc
        self.globals = frozenset(sandbox.globals)


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + _LAST}
    if not content:
        raise InvalidArgument("continue_final_message needs a last message with content")
    return {**message, "content": [*content[:-1], {**content[-1], "text": content[-1]["text"] + _LAST}]}


def _before_mark(rendered: str) -> str:
    place = rendered.rfind(_LAST.strip())
    if place < 0:
        raise InvalidArgument("the chat template does not show the last message, which is to be continued")
    before = rendered[:place]
    return before if rendered.startswith(_LAST, place) else before.rstrip()
