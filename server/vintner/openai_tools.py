"""Tools that a chat may call, and how the model is held to calling them.

Pure. What a model writes is a call in the format of its own, which is read by the parser of its language; unless the
request wants a call in any case: then a schema forces it, and no format is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vintner.errors import InvalidArgument, Unsupported
from vintner.generation import Constraint
from vintner.openai_request import Parameters, bad, blamed
from vintner.output_parsers import OutputParser, forced_call, parser_for, required_calls, tool_choice_schema
from vintner.prompts import Language
from vintner.response_formats import schema_constraint

MODES: Final = ("none", "auto", "required")
MOST_TOOLS: Final = 1024
PROMPT_END: Final = 256
"""Last characters of a prompt, which may open the model's thoughts."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request says of them. `name` is the function that is to be called, if the request names one."""

    functions: Sequence[Mapping[str, Any]] = ()
    """As OpenAI's `tools`; none where the model is not to call any."""
    mode: str = "none"
    name: str | None = None
    parallel: bool = True

    def constraint(self) -> Constraint | None:
        """What forces a call. Raises InvalidArgument for parameters that are no schema, or a name that there is not."""
        if self.mode != "required":
            return None
        with blamed("tools" if self.name is None else "tool_choice"):
            schema = tool_choice_schema(self.functions, self.name, parallel=self.parallel)
            return schema_constraint(schema, "tools")

    def parser(self, language: Language, prompt: str, constrained: bool) -> OutputParser:
        """For one answer. Where the text is constrained it is all content, or all calls: there are no thoughts."""
        if self.mode == "required":
            return forced_call(self.name) if self.name is not None else required_calls()
        return parser_for(
            tool=language.tool_parser if self.functions else None,
            reasoning=None if constrained else language.reasoning_parser,
            tools=self.functions,
            prompt_end=prompt[-PROMPT_END:],
        )

    def check(self, language: Language) -> None:
        """Raises Unsupported for a model whose calls could not be told from its text."""
        if self.mode == "auto" and language.tool_parser is None:
            raise Unsupported(
                f"model '{language.name}' has no parser for calls of tools, so tool_choice must be 'required' or name a"
                " function; tool_parser in its config.yaml chooses one",
                "tools",
            )


def read_tools(parameters: Parameters) -> Tools:
    """Raises RequestError."""
    given = parameters.value("tools")
    choice = parameters.value("tool_choice")
    parallel = parameters.flag("parallel_tool_calls", True)
    if given is None or given == []:
        if choice not in (None, "none"):
            raise InvalidArgument("parameter 'tool_choice' is only allowed when 'tools' are given", "tool_choice")
        return Tools()
    functions = _functions(given)
    mode, name = _choice(choice)
    if mode == "none":
        return Tools()
    tools = Tools(functions, mode, name, parallel)
    tools.constraint()  # is checked before the request is queued
    return tools


def _choice(choice: Any) -> tuple[str, str | None]:
    if choice is None:
        return "auto", None
    if isinstance(choice, str) and choice in MODES:
        return choice, None
    if isinstance(choice, dict) and choice.get("type") == "function":
        name = _inside(choice, "tool_choice", ("type", "function")).get("name")
        if isinstance(name, str):
            return "required", name
    raise bad("tool_choice", 'none, auto, required or {"type": "function", "function": {"name": "..."}}', choice)


def _functions(given: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(given, list) or len(given) > MOST_TOOLS:
        raise bad("tools", f"an array of at most {MOST_TOOLS} functions", given)
    for place, tool in enumerate(given):
        path = f"tools[{place}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise bad(path, 'an object with the type "function"', tool)
        function = _inside(tool, path, ("type", "function"))
        _check_function(function, f"{path}.function")
    names = [tool["function"]["name"] for tool in given]
    if len(set(names)) < len(names):
        raise InvalidArgument("parameter 'tools': several functions have the same name", "tools")
    return given


def _inside(outer: Mapping[str, Any], path: str, known: Sequence[str]) -> Mapping[str, Any]:
    other = next((key for key in outer if key not in known), None)
    if other is not None:
        raise InvalidArgument(f"unknown parameter '{path}.{other[:64]}'", path)
    function = outer.get("function")
    if not isinstance(function, dict):
        raise bad(f"{path}.function", "an object", function)
    return function


def _check_function(function: Mapping[str, Any], path: str) -> None:
    inner = Parameters(function, f"{path}.")
    inner.required("name")
    inner.text("description")
    inner.inner("parameters")
    inner.flag("strict")
    inner.finish()
