"""Writes the graph of model_repository/text_lines, in which nothing is learned.

    .venv/bin/python scripts/make_text_lines.py

Invariant: each answer depends on its own line alone, and no lines at all are as good as some.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto, helper

FILE: Final = Path(__file__).parents[1] / "model_repository" / "text_lines" / "1" / "model.onnx"

OPSET: Final = 20
"""The first that has StringSplit."""
IR_VERSION: Final = 9

LOCALE: Final = "C"
"""The only one that every machine has. ONNX Runtime fails to load a model whose locale (en_US by default) it lacks."""


def main() -> None:
    line = helper.make_tensor_value_info("line", TensorProto.STRING, ["rows"])
    upper = helper.make_tensor_value_info("upper", TensorProto.STRING, ["rows"])
    words = helper.make_tensor_value_info("words", TensorProto.INT64, ["rows"])
    nodes = [*upper_case(), helper.make_node("StringSplit", ["line"], ["parts", "words"])]
    graph = helper.make_graph(nodes, "text_lines", [line], [upper, words])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, FILE)


def upper_case() -> list[onnx.NodeProto]:
    """StringNormalizer refuses a tensor without rows, so a blank one is there for its time."""
    return [
        helper.make_node("Constant", [], ["blank"], value_strings=[""]),
        helper.make_node("Constant", [], ["first"], value_ints=[0]),
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("Concat", ["line", "blank"], ["lines_and_blank"], axis=0),
        helper.make_node(
            "StringNormalizer", ["lines_and_blank"], ["uppers_and_blank"], case_change_action="UPPER", locale=LOCALE
        ),
        helper.make_node("Slice", ["uppers_and_blank", "first", "last"], ["upper"]),
    ]


if __name__ == "__main__":
    main()
