"""An openvino_tokenizer.xml, run as an OpenVINO model that gives the bare tokens of each text.

What the file adds behind them (special tokens, truncation, padding to the longest) is taken off the graph and read as a
`Template`: so the lengths of texts are known before anything is padded, two texts can be put into one sequence, and
texts can be grouped by length.

Knows nothing of encoders. Invariant: the tokens of a text do not depend on the texts beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino as ov
from openvino import opset15
from vintner.errors import ContextExceeded, InvalidArgument, LoadError
from vintner.types import Array, TensorSpec

from vintner_backends.genai_extra import missing
from vintner_backends.openvino_instance import OpenVINOInstance
from vintner_backends.token_batches import Template

TEXT: Final = TensorSpec("text", "BYTES", (-1,))
RAGGED: Final = tuple(TensorSpec(name, "INT32", (-1,)) for name in ("begins", "ends", "ids"))
"""Where the tokens of each text are in `ids`."""

LONGEST_TOKEN: Final = 256
"""Bytes of a text for each token that fits, spaces included: more than that is refused, or cut, before it costs memory
and time."""


def core_with_tokenizers() -> ov.Core:
    """An OpenVINO that knows the operations of tokenizers. Raises LoadError where their package is not installed."""
    try:
        import openvino_tokenizers  # noqa: F401 - its import adds them to every core that is made from then on
    except ImportError as exc:
        raise missing("openvino-tokenizers", exc) from exc
    return ov.Core()


@dataclass(frozen=True, slots=True)
class TokenizerGraph:
    """The part that makes tokens, and what was taken off behind it. `pair` is None if the file does not tell it."""

    model: ov.Model
    single: Template
    pair: Template | None
    padding: int
    """The id of the padding token."""


def read_tokenizer(core: ov.Core, file: Path, config: dict[str, Any]) -> TokenizerGraph:
    """Raises LoadError for a tokenizer whose graph is put together in another way, and RuntimeError from OpenVINO."""
    model = core.read_model(file, config=config)
    ids = next((port for port in model.outputs if "input_ids" in port.names), None)
    dense = behind(ids.node.input_value(0), ("Convert",)) if ids is not None else None
    if dense is None or dense.get_node().get_type_name() != "RaggedToDense":
        raise LoadError(f"{file.name} does not end in padded input_ids; convert it anew with openvino-tokenizers")
    sources = [dense.get_node().input_value(index) for index in range(3)]
    single = Template((-1,), (0,))
    if sources[0].get_node().get_type_name() == "CombineSegments":
        single, sources = read_segments(sources[0].get_node())
    if sources[0].get_node().get_type_name() == "Truncate":
        sources = [sources[0].get_node().input_value(index) for index in range(3)]
    padding = int(np.asarray(constant(dense.get_node().input_value(4))).flat[0])
    return TokenizerGraph(bare(model, sources), single, read_pair(model), padding)


def behind(port: Any, kinds: Sequence[str]) -> Any:
    """The first port up the graph that is no output of a node of these kinds."""
    while port.get_node().get_type_name() in kinds:
        port = port.get_node().input_value(0)
    return port


def read_segments(node: Any) -> tuple[Template, list[Any]]:
    """The template of one text, and the ports of the text's own tokens.

    The inputs are begins, ends and ids of each part, and last the segment of each. Raises LoadError if it has not one
    text.
    """
    values = [node.input_value(index) for index in range(node.get_input_size())]
    parts: list[int] = []
    types: list[int] = []
    text: list[Any] = []
    for start, segment in zip(range(0, len(values) - 1, 3), np.asarray(constant(values[-1])).flat, strict=True):
        ids = constant(values[start + 2])
        added = [-1] if ids is None else [int(one) for one in np.asarray(ids).flat]
        if ids is None:
            text += values[start : start + 3]
        parts += added
        types += [int(segment)] * len(added)
    if len(text) != 3:
        raise LoadError(f"the tokenizer takes {len(text) // 3} texts for a sequence; convert it with one input")
    return Template(tuple(parts), tuple(types)), text


def constant(port: Any) -> Any:
    """The array of a constant, None if the port is none's."""
    node = behind(port, ("Convert",)).get_node()
    return node.data if node.get_type_name() == "Constant" else None


def read_pair(model: ov.Model) -> Template | None:
    """The template of two texts, which openvino-tokenizers notes beside the graph."""
    name = "processed_post_processor_template"
    if not model.has_rt_info(name):
        return None
    try:
        pair = json.loads(model.get_rt_info(name).astype(str))["pair"]
        return Template(tuple(map(int, pair["ids"])), tuple(map(int, pair["type_ids"])))
    except (KeyError, TypeError, ValueError):
        return None


def bare(model: ov.Model, sources: Sequence[Any]) -> ov.Model:
    """A model that ends at these ports, with begins, ends and ids in 32 bits."""
    results = [opset15.result(opset15.convert(source, "i32")) for source in sources]
    return ov.Model(results, model.get_parameters(), "tokenizer")


class Tokenizer:
    """One infer request of a tokenizer. As an instance, it is run by one thread at a time."""

    def __init__(self, instance: OpenVINOInstance, limit: int, truncate: bool) -> None:
        """`limit` is the model's, in tokens; see `LONGEST_TOKEN`."""
        self._instance = instance
        self._limit = limit * LONGEST_TOKEN
        self._truncate = truncate

    def run(self, texts: Array) -> list[Array]:
        """The tokens of each of these texts, int32. Raises InvalidArgument for one that is too long, or not UTF-8."""
        if not texts.size:
            return []
        given = np.empty(texts.size, np.object_)
        given[:] = [self._checked(text) for text in texts]
        found = self._instance.run({TEXT.name: given})
        begins, ends = found["begins"].tolist(), found["ends"].tolist()
        return [found["ids"][begin:end] for begin, end in zip(begins, ends, strict=True)]

    def _checked(self, text: bytes) -> bytes:
        if len(text) > self._limit:
            if not self._truncate:
                raise ContextExceeded(
                    f"the text has {len(text)} bytes, and the model takes at most {self._limit // LONGEST_TOKEN} tokens"
                    f" in at most {self._limit} bytes"
                )
            text = text[: self._limit].decode("utf-8", "ignore").encode()
        try:
            text.decode()
        except UnicodeDecodeError as exc:
            raise InvalidArgument(f"the text is not UTF-8: {exc.reason} at byte {exc.start}") from exc
        return text

    def close(self) -> None:
        self._instance.close()
