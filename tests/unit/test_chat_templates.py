"""Chat templates: what transformers renders from the same template, and what a client cannot do with one."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import chat_template_sources as sources
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintner.chat_messages import MOST_MESSAGES
from vintner.chat_templates import ChatTemplate, read_template
from vintner.errors import ConfigError, InvalidArgument

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi <there>"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": "é<"}'}},
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
TOOL = {"type": "function", "function": {"name": "add", "description": "It's <b>é</b>"}}

RENDERED = [
    (
        sources.CHATML,
        [SYSTEM, HELLO, HI, HELLO],
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
        "Hi <there><|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        sources.QWEN25,
        [HELLO],
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        sources.QWEN25,
        [SYSTEM, HELLO, CALL, RESULT, RESULT],
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é<"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response>\n<tool_response>\n3\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    (
        sources.LLAMA31,
        [SYSTEM, HELLO, CALL, RESULT],
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 05 Mar 2026\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "add", "parameters": {"a": 1, "b": "é<"}}<|eot_id|>'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"3"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (sources.MISTRAL, [HELLO, HI, HELLO], "<s>[INST] Hello [/INST] Hi <there></s>[INST] Hello [/INST]"),
    (
        sources.PHI4,
        [SYSTEM, HELLO],
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hello<|im_end|>"
        "<|im_start|>assistant<|im_sep|>",
    ),
    (
        sources.DEEPSEEK_R1,
        [SYSTEM, HELLO, {"role": "assistant", "content": "<think>Hm</think>Yes"}, HELLO, CALL],
        "<s>Be brief.<｜User｜>Hello<｜Assistant｜>Yes<｜end▁of▁sentence｜><｜User｜>Hello<｜Assistant｜>"
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{"a": 1, "b": "é<"}\n```<｜tool▁call▁end｜>'
        "<｜Assistant｜><think>\n",
    ),
    (sources.SMOLVLM, [HELLO], "<|im_start|>User:Hello<end_of_utterance>\nAssistant:"),
    (sources.QWEN3_VL, [HELLO], "user: Hello\n"),
]  # fmt: skip
"""The texts were compared with what transformers 5.5.4 renders."""


def template(source: str, **settings: Any) -> ChatTemplate:
    return ChatTemplate(source, TOKENS, now=lambda: datetime(2026, 3, 5), **settings)


@pytest.mark.parametrize(("source", "messages", "expected"), RENDERED)
def test_the_prompt_is_the_one_that_transformers_renders(source: str, messages: list[Any], expected: str) -> None:
    assert template(source).render(messages) == expected


def test_tools_are_written_as_json_with_nothing_escaped() -> None:
    rendered = template(sources.QWEN25).render([HELLO], tools=[TOOL])
    assert f"<tools>\n{json.dumps(TOOL, ensure_ascii=False)}\n</tools>" in rendered
    indented = template(sources.LLAMA31).render([HELLO], tools=[TOOL])
    assert json.dumps(TOOL, ensure_ascii=False, indent=4) + "\n\n" in indented


def test_arguments_may_be_an_object_already() -> None:
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]}
    assert '"arguments": {"a": 1}}' in template(sources.QWEN25).render([HELLO, call])
    as_text = template(sources.DEEPSEEK_R1).render([HELLO, {**call, "content": None}])
    assert '```json\n{"a": 1}\n```' in as_text


def test_a_developer_is_the_system_to_a_template_that_knows_no_developer() -> None:
    told = [{"role": "developer", "content": "Be brief."}, HELLO]
    for source in (sources.QWEN25, sources.PHI4, sources.LLAMA31):
        assert template(source).render(told) == template(source).render([SYSTEM, HELLO])
    knows = "{% for m in messages %}{% if m.role == 'developer' %}[{{ m.content }}]{% endif %}{% endfor %}"
    assert template(knows).render(told) == "[Be brief.]"


def test_a_role_that_the_template_passes_over_is_refused() -> None:
    passes_over = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    for content in ("Be brief.", [{"type": "text", "text": "Be brief."}]):
        with pytest.raises(InvalidArgument, match=r"messages\[1\].role: the chat template does not show 'judge'"):
            template(passes_over).render([HELLO, {"role": "judge", "content": content}])
    shown = template(sources.CHATML).render([{"role": "judge", "content": "Be brief. "}, HELLO])
    assert shown.startswith("<|im_start|>judge\nBe brief. <|im_end|>")


PARTS = {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (sources.PHI4, "<|im_start|>user<|im_sep|>One\nTwo<|im_end|>"),
        (sources.SMOLVLM, "<|im_start|>User:OneTwo<end_of_utterance>\n"),
        (sources.QWEN3_VL, "user: <t>One<t>Two\n"),
        ("{% set c = messages[0].content[:1] %}{% for p in c %}{{ p.text }}{% endfor %}", "One"),
        ("{% for c in messages[0]['content'] | list %}{{ c.text }}{% endfor %}", "OneTwo"),
    ],
)
def test_parts_are_joined_unless_the_template_takes_them(source: str, expected: str) -> None:
    assert template(source).render([PARTS], add_generation_prompt=False) == expected


@pytest.mark.parametrize("source", [sources.CHATML, sources.SMOLVLM])
@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url"])
def test_what_is_no_text_is_refused_by_name(source: str, kind: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": kind, kind: {}}]}
    with pytest.raises(InvalidArgument, match=rf"messages\[1\]\.content\[1\]: content of type '{kind}' is not"):
        template(source).render([HELLO, message])


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one message"),
        ("Hello", "must be an array"),
        (["Hello"], r"messages\[0\] must be an object"),
        ([{"content": "x"}], r"messages\[0\].role must be a string"),
        ([{"role": "user", "content": 3}], r"messages\[0\].content must be a string or an array"),
        ([{"role": "user", "content": {"text": "x"}}], r"messages\[0\].content must be a string or an array"),
        ([{"role": "user", "content": ["x"]}], r"messages\[0\].content\[0\] must be an object like"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"messages\[0\].content\[0\].text must be a string"),
        ([HELLO, {"role": "assistant", "tool_calls": "x"}], r"messages\[1\].tool_calls must be an array"),
        ([{"role": "a", "tool_calls": [{}]}], r"messages\[0\].tool_calls\[0\].function must be an object"),
        (
            [{"role": "a", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            r"tool_calls\[0\].function.arguments must be the text of a JSON object: Expecting",
        ),
        ([{"role": "a", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}], "text of a JSON object"),
        ([{"role": "a", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 99999}}]}], "JSON object"),
        ([HELLO] * (MOST_MESSAGES + 1), f"{MOST_MESSAGES + 1} messages, at most {MOST_MESSAGES}"),
        ([{"role": "user"}], "cannot render these messages|has no attribute 'content'"),
        ([{"role": "user", "content": None}], "cannot render these messages: can only concatenate"),
    ],
)
def test_bad_messages_say_what_is_wrong(messages: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        template(sources.CHATML).render(messages)


def test_the_templates_own_reason_is_given() -> None:
    with pytest.raises(InvalidArgument, match="refuses these messages: Conversation roles must alternate"):
        template(sources.MISTRAL).render([HELLO, HELLO])


def test_messages_are_data_and_not_changed() -> None:
    hostile = "{{ 7 * 7 }}{% for x in range(9) %}<script>"
    messages = [{"role": "user", "content": [{"type": "text", "text": hostile}]}, CALL]
    before = json.dumps(messages)
    assert f"user\n{hostile}<|im_end|>" in template(sources.QWEN25).render(messages)
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "bos_token", "raise_exception", "namespace", "range"]
)
def test_keyword_arguments_cannot_overwrite_what_the_server_sets(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"chat_template_kwargs must not set '{name}'"):
        template(sources.CHATML).render([HELLO], kwargs={name: None})


def test_keyword_arguments_reach_the_template() -> None:
    source = "{% if enable_thinking is defined and not enable_thinking %}off{% else %}on{% endif %}{{ documents }}"
    assert template(source).render([HELLO]) == "onNone"
    assert template(source).render([HELLO], kwargs={"enable_thinking": False, "documents": []}) == "off[]"


HOSTILE = [
    ("{{ 'x' * n }}", 1 << 60),
    ("{{ [0] * n }}", 1 << 60),
    ("{{ n * 'x' }}", 1 << 60),
    ("{{ 2 ** n }}", 1 << 40),
    ("{{ range(n) | list }}", 1 << 40),
    ("{% for i in range(99999) %}{{ n }}{% endfor %}", "x" * 10000),
    ("{{ n.__class__.__mro__ }}", ""),
    ("{{ n.append(1) }}", []),
    ("{{ messages.clear() }}", None),
    ("{{ 1 / n }}", 0),
    ("{{ n | tojson }}", {1, 2}),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", None),
    ("{% if n %}{{ n | no_such_filter }}{% endif %}", 1),
]


@pytest.mark.parametrize(("source", "value"), HOSTILE)
def test_no_value_of_the_clients_hurts_the_server(source: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"chat template|rendered chat"):
        template(source).render([HELLO], kwargs={"n": value})


def test_ordinary_arithmetic_is_left_alone() -> None:
    assert template("{{ 'ab' * 3 }}{{ 10000000000 * 10000000000 }}{{ 2 ** 10 }}").render([HELLO]) == (
        "ababab1000000000000000000001024"
    )


def test_the_generation_tag_and_loop_controls_are_understood() -> None:
    source = (
        "{% for m in messages %}\n    {% if m.role == 'tool' %}{% continue %}{% endif %}\n"
        "{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    )
    assert template(source).render([HELLO, RESULT, HI]) == "Hello|Hi <there>|"


@pytest.mark.parametrize("source", [sources.CHATML, sources.LLAMA31, sources.SMOLVLM])
@pytest.mark.parametrize("content", ["The answer is", "The answer is ", "CONTINUE_FINAL_MESSAGE_TAG is"])
def test_the_last_message_can_be_left_open(source: str, content: str) -> None:
    last = {"role": "assistant", "content": content}
    rendered = template(source).render([HELLO, last], add_generation_prompt=False, continue_final_message=True)
    whole = template(source).render([HELLO, last], add_generation_prompt=False)
    assert rendered.endswith(content if source != sources.LLAMA31 else content.rstrip())
    assert whole.startswith(rendered.rstrip())


def test_what_cannot_be_continued_is_refused() -> None:
    both = {"add_generation_prompt": True, "continue_final_message": True}
    with pytest.raises(InvalidArgument, match="exclude one another"):
        template(sources.CHATML).render([HELLO], **both)
    with pytest.raises(InvalidArgument, match="needs a last message with content"):
        template(sources.QWEN25).render([HELLO, CALL], add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(InvalidArgument, match="does not show the last message"):
        template("{{ bos_token }}").render([HELLO], add_generation_prompt=False, continue_final_message=True)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=5))
def test_every_text_comes_through_unchanged(turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    expected = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    assert template(sources.CHATML).render(messages, add_generation_prompt=False) == expected


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x", "{{ x | no_such_filter }}", "{% nonsense %}", "{{ " + "(" * 9999]
)
def test_a_template_that_is_none_is_the_operators_matter(source: str) -> None:
    with pytest.raises(ConfigError, match="the chat template"):
        template(source)


def written(directory: Path, **files: Any) -> Path:
    for name, content in files.items():
        stem, _, kind = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / f"{stem}.{kind}").write_text(text, encoding="utf-8")
    return directory


def rendered_by(directory: Path, **settings: Any) -> str:
    found = read_template(directory)
    assert found is not None
    return found.render([HELLO], **settings)


CONVERTED = (
    '<?xml version="1.0"?><net name="tokenizer" version="11"><layers><layer id="0" name="x" type="Parameter">'
    '<rt_info><chat_template value="not this one" /></rt_info></layer></layers><edges/><rt_info>'
    '<chat_template value="XML {{ messages[0].content }}&#10;" /><eos_token_id value="2" /></rt_info></net>'
)


def test_the_files_have_an_order(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None
    written(tmp_path, openvino_tokenizer_xml=CONVERTED)
    assert rendered_by(tmp_path) == "XML Hello"
    written(tmp_path, tokenizer_config_json={"chat_template": "CONFIG", "eos_token": "</s>"})
    assert rendered_by(tmp_path) == "CONFIG"
    written(tmp_path, chat_template_json={"chat_template": "JSON"})
    assert rendered_by(tmp_path) == "JSON"
    written(tmp_path, chat_template_jinja="JINJA {{ eos_token }}")
    assert rendered_by(tmp_path) == "JINJA </s>"


def test_special_tokens_come_as_strings_or_objects(tmp_path: Path) -> None:
    written(
        tmp_path,
        special_tokens_map_json={"bos_token": "old", "unk_token": {"content": "<unk>", "lstrip": False}},
        tokenizer_config_json={
            "chat_template": "{{ bos_token }}{{ unk_token }}{{ eos_token }}{{ pad_token }}{{ add_bos_token }}",
            "bos_token": {"__type": "AddedToken", "content": "<s>"},
            "eos_token": "</s>",
            "pad_token": None,
            "add_bos_token": True,
        },
    )
    assert rendered_by(tmp_path) == "<s><unk></s>"


def test_requests_with_tools_get_the_template_for_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    written(tmp_path, tokenizer_config_json={"chat_template": [*named, {"name": "rag", "template": "rag"}]})
    assert rendered_by(tmp_path) == "plain"
    assert rendered_by(tmp_path, tools=[]) == "plain"
    assert rendered_by(tmp_path, tools=[TOOL]) == "tools"


def test_further_templates_may_be_files(tmp_path: Path) -> None:
    written(tmp_path, chat_template_jinja="plain")
    (tmp_path / "additional_chat_templates").mkdir()
    written(tmp_path / "additional_chat_templates", tool_use_jinja="tools")
    assert rendered_by(tmp_path) == "plain"
    assert rendered_by(tmp_path, tools=[TOOL]) == "tools"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer_config_json", "{", "not JSON"),
        ("tokenizer_config_json", "[" * 99999, "not JSON"),
        ("tokenizer_config_json", "[]", "expected a JSON object"),
        ("chat_template_json", "{", "not JSON"),
        ("tokenizer_config_json", {"chat_template": 3}, "must be a string or a list"),
        ("tokenizer_config_json", {"chat_template": [{"name": "default"}]}, "must be a string or a list"),
        ("tokenizer_config_json", {"chat_template": [{"name": "rag", "template": ""}]}, "none is called 'default'"),
        ("tokenizer_config_json", {"chat_template": "{% if %}"}, "not valid Jinja2: .*line 1"),
        ("chat_template_jinja", "\n{% endfor %}", "not valid Jinja2: .*line 2"),
        ("openvino_tokenizer_xml", "<net>", "no element found"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: Any, reason: str) -> None:
    written(tmp_path, **{name: content})
    stem, _, kind = name.rpartition("_")
    with pytest.raises(ConfigError, match=rf"{stem}\.{kind}: .*{reason}"):
        read_template(tmp_path)


def test_a_converted_tokenizer_without_a_template_has_none(tmp_path: Path) -> None:
    written(tmp_path, openvino_tokenizer_xml="<net><layers/><rt_info><eos_token_id value='2'/></rt_info></net>")
    assert read_template(tmp_path) is None
