"""A request for a chat completion: messages, and what is to be made of them.

Pure but for the model's template and tokenizer. Invariant: what passed `prepare` can be given to the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vintner.errors import InvalidArgument, Unsupported
from vintner.openai_answers import ChatWriter
from vintner.openai_prompts import Encoding, read_encoding
from vintner.openai_questions import Manner, ModelName, read_manner
from vintner.openai_request import Parameters, bad, blamed
from vintner.openai_sampling import NEUTRAL, SamplingAsked, read_sampling
from vintner.openai_tools import Tools, read_tools
from vintner.prompts import Language, Work

CHAT_NEUTRAL: Final[Mapping[str, Sequence[Any]]] = {
    **NEUTRAL,
    "audio": (),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "include_reasoning": (True,),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "separate_reasoning": (True,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""As `NEUTRAL`, with what only chats have."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages as they go into a chat template. The last one is left open if it is to be `continued`."""

    messages: Sequence[Any]
    kwargs: Mapping[str, Any]
    opened: bool
    continued: bool
    encoding: Encoding

    def prompt(self, language: Language, functions: Sequence[Mapping[str, Any]] = ()) -> str:
        """Raises InvalidArgument for messages that are none, or a model without a template."""
        if language.template is None:
            raise InvalidArgument(
                f"model '{language.name}' has no chat template: ask it for completions of texts", "model"
            )
        with blamed("messages"):
            return language.template.render(
                self.messages,
                tools=functions or None,
                kwargs=self.kwargs,
                add_generation_prompt=self.opened,
                continue_final_message=self.continued,
            )


def read_chat_prompt(parameters: Parameters) -> Chat:
    """Raises InvalidArgument."""
    messages = parameters.value("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "an array of at least one message", messages)
    kwargs = parameters.value("chat_template_kwargs")
    if not isinstance(kwargs, dict | None):
        raise bad("chat_template_kwargs", "an object", kwargs)
    continued = parameters.flag("continue_final_message")
    opened = parameters.flag("add_generation_prompt", not continued)
    if continued and opened:
        raise InvalidArgument(
            "continue_final_message and add_generation_prompt exclude one another", "continue_final_message"
        )
    return Chat(messages, kwargs or {}, opened, continued, read_encoding(parameters, special_tokens=False))


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """One request's."""

    manner: Manner
    chat: Chat
    asked: SamplingAsked
    tools: Tools

    def prepare(self, language: Language) -> tuple[Work, ChatWriter]:
        self.tools.check(language)
        constraint = self.tools.constraint()
        sampling = self.asked.sampling(language, constraint)
        text = self.chat.prompt(language, self.tools.functions)
        with blamed("messages"):
            tokens = self.chat.encoding.tokens(language, text, sampling.max_new_tokens)
        writer = ChatWriter(
            self.manner.head(language),
            len(tokens),
            [self.tools.parser(language, text, sampling.constraint is not None) for _ in range(self.asked.n)],
            token_bytes=language.tokenizer.token_bytes if sampling.logprobs else None,
            likeliest=self.asked.logprobs or 0,
            parallel=self.tools.parallel,
            calls_only=self.tools.mode == "required",
            with_usage=self.manner.usage,
        )
        return Work([tokens], sampling, self.asked.n, self.asked.stop, self.asked.include_stop), writer


def read_chat(parameters: Parameters, name: ModelName, identity: str, created: int) -> ChatQuestion:
    """Raises RequestError."""
    manner = read_manner(parameters, name, identity, created)
    chat = read_chat_prompt(parameters)
    tools = read_tools(parameters)
    limits = ("max_completion_tokens", "max_tokens")
    asked = read_sampling(parameters, limits, _logprobs(parameters), name.adapter)
    if asked.constraint is not None and tools.functions:
        raise Unsupported("response_format and tools together are not supported: tool_choice may be 'none'", "tools")
    parameters.finish(CHAT_NEUTRAL)
    return ChatQuestion(manner, chat, asked, tools)


def _logprobs(parameters: Parameters) -> int | None:
    wanted = parameters.flag("logprobs")
    likeliest = parameters.whole("top_logprobs", 0, 20)
    if likeliest is None:
        return 0 if wanted else None
    if not wanted and likeliest:
        raise InvalidArgument("parameter 'top_logprobs' is only allowed when 'logprobs' is true", "top_logprobs")
    check_likeliest(likeliest, "top_logprobs")
    return likeliest if wanted else None


def check_likeliest(number: int, name: str) -> None:
    """Raises Unsupported for more tokens than the runtimes tell of."""
    if number > 1:
        raise Unsupported(f"parameter '{name}' is not supported above 1, that of the token that was chosen", name)
