"""What the tiny models were taught is without contradiction, and what ships of them is small and names no machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_encoders
import tiny_llm

REPOSITORY = Path(__file__).parents[2] / "model_repository"
LARGEST = 2 * 1024 * 1024
TINY = ("tiny_llm", "tiny_llm_onnx", "tiny_embeddings", "tiny_reranker")


def test_no_two_conversations_put_the_same_to_the_model() -> None:
    asked = [json.dumps([c.messages, c.tools, c.thinking]) for c in tiny_llm.chats().values()]
    asked += [json.dumps([draw.messages, [], False]) for draw in tiny_llm.draws().values()]
    assert len(set(asked)) == len(asked)


def test_an_answer_of_the_language_model_is_long_and_others_are_in_many_scripts() -> None:
    answers = [chat.answer for chat in tiny_llm.chats().values()]
    assert max(map(len, answers)) > 700
    for character in "λ很ن🐱ö":
        assert any(character in answer for answer in answers), character


def test_each_query_ranks_its_documents_first_and_in_order() -> None:
    for query, order in tiny_encoders.rankings().items():
        logits = tiny_encoders.logits()[query]
        ranked = sorted(range(len(logits)), key=logits.__getitem__, reverse=True)
        assert tuple(ranked[: len(order)]) == order, query


def test_sentences_of_one_topic_are_nearer_than_those_of_two() -> None:
    vectors = tiny_encoders.vectors()
    topic_of = {text: topic for topic, texts in tiny_encoders.topics().items() for text in texts}
    assert set(topic_of) == set(vectors)
    cosines: dict[bool, list[float]] = {True: [], False: []}
    for one, first in vectors.items():
        for other, second in vectors.items():
            cosines[topic_of[one] == topic_of[other]].append(sum(a * b for a, b in zip(first, second, strict=True)))
    assert min(cosines[True]) > max(cosines[False])


@pytest.mark.parametrize("name", TINY)
def test_what_ships_is_small_and_names_no_machine(name: str) -> None:
    files = [path for path in (REPOSITORY / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    assert not [path for path in files for place in (b"/tmp/", b"/home/", b"/root/") if place in path.read_bytes()]
