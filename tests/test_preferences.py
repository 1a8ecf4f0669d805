"""Preferences, prompts and questions: what is read, what is refused, what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorcritic import UserError
from actorcritic.language import preferences
from actorcritic.language.preferences import (
    Pair,
    encode_pairs,
    read_pairs,
    read_prompts,
    read_questions,
    split,
    without,
)
from actorcritic.language.tokens import Tokenizer

PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
CHAT = [{"role": "user", "content": "Why?"}]


def file_of(folder: Path, *lines: Any) -> Path:
    path = folder / "data.jsonl"
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["Why? Because. No. Yes, it is so."] * 10, 280)


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": CHAT, "chosen": "Because.", "rejected": "No."},
        {
            "prompt": CHAT,
            "chosen": [{"role": "assistant", "content": "Because."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        },
        {
            "chosen": [*CHAT, {"role": "assistant", "content": "Because."}],
            "rejected": [*CHAT, {"role": "assistant", "content": "No."}],
        },
        {
            "prompt": "Why?",
            "chosen": [*CHAT, {"role": "assistant", "content": "Because."}],
            "rejected": [*CHAT, {"role": "assistant", "content": "No."}],
        },
    ],
)
def test_pairs_in_every_form_of_the_ecosystem(row: dict[str, Any]) -> None:
    found = read_pairs([row]).rows[0]
    assert (found.chosen, found.rejected) == ("Because.", "No.")
    assert found.prompt in ("Why?", (("user", "Why?"),))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "line 2"),
        ("[1, 2]", "JSON object"),
        ({"chosen": "a", "rejected": "b"}, "'prompt'"),
        ({"prompt": "a", "rejected": "b"}, "no key 'chosen'"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "list of messages"),
        ({"prompt": "a", "chosen": [{"role": "user"}], "rejected": "b"}, "both texts"),
        ({"prompt": "a", "chosen": CHAT, "rejected": "b"}, "must end with a message of the assis"),
        (
            {
                "chosen": [*CHAT, {"role": "assistant", "content": "x"}],
                "rejected": [
                    {"role": "user", "content": "What?"},
                    {"role": "assistant", "content": "y"},
                ],
            },
            "different prompts",
        ),
        (
            {
                "prompt": "What?",
                "chosen": [*CHAT, {"role": "assistant", "content": "x"}],
                "rejected": "y",
            },
            "does not begin with",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_pairs(file_of(tmp_path, PAIR, line))
    assert "line 2" in str(error.value)


def test_rows_that_say_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    found = read_pairs(
        file_of(
            tmp_path,
            PAIR,
            PAIR | {"rejected": "Because."},
            PAIR | {"chosen": "  "},
            PAIR | {"prompt": ""},
            PAIR,
        )
    )
    assert found.rows == [Pair(**PAIR)] * 2
    assert found.left_out == {
        "whose answers are the same": 1,
        "with an empty answer": 1,
        "with an empty prompt": 1,
    }
    assert found.repeated == 1
    assert "some are left out: 1 whose answers" in " ".join(found.said("pairs"))


def test_nothing_left_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row to learn from: 1 whose answers are the same"):
        read_pairs([PAIR | {"rejected": "Because."}])
    with pytest.raises(UserError, match="empty"):
        read_prompts([])
    with pytest.raises(UserError):
        read_pairs(tmp_path / "missing.jsonl")
    with pytest.raises(UserError):
        read_pairs(tmp_path)


def test_a_huge_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="Split it"):
        read_pairs(file_of(tmp_path, PAIR))


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.floats(0, 0.9))
def test_no_prompt_is_on_both_sides(prompts: list[str], share: float) -> None:
    rows = [Pair(p, "x", str(i)) for i, p in enumerate(prompts)]
    train, apart = split(rows, share, 0)
    assert sorted(train + apart) == sorted(rows)
    assert not {r.prompt for r in train} & {r.prompt for r in apart}
    assert train
    assert bool(apart) == (share > 0 and len(set(prompts)) > 1)


def test_prompts_that_were_trained_on_are_no_evaluation() -> None:
    rows = read_pairs([PAIR, PAIR | {"prompt": "What?"}])
    kept = without(rows, [Pair("Why?", "a", "b")], "the training data")
    assert [row.prompt for row in kept.rows] == ["What?"]
    assert kept.left_out == {"also in the training data": 1}


def test_a_long_prompt_loses_its_beginning_and_an_answer_nothing(tokenizer: Tokenizer) -> None:
    long = Pair("x" * 50 + "Why?", "Because.", "No.")
    pairs = preferences.Checked([long, Pair("Why?", "Because. " * 40, "No.")])
    whole, _ = encode_pairs(pairs, tokenizer, 10_000)
    cut, kept = encode_pairs(pairs, tokenizer, 20)
    assert kept.rows == [long]
    assert kept.left_out == {"with an answer that does not fit into 20 tokens": 1}
    chosen, rejected = cut[0]
    assert (chosen.answer, rejected.answer) == (whole[0][0].answer, whole[0][1].answer)
    assert chosen.prompt == rejected.prompt == whole[0][0].prompt[-len(chosen.prompt) :]
    assert len(chosen.prompt) + max(len(chosen.answer), len(rejected.answer)) == 20
    assert chosen.answer[-1] in tokenizer.eos
    with pytest.raises(UserError, match="No pair is left"):
        encode_pairs(preferences.Checked([Pair("Why?", "Because. " * 40, "No.")]), tokenizer, 8)


def test_questions_of_the_published_form() -> None:
    base = {
        "question": "Q?",
        "correct_answer": "Hydrogen",
        "incorrect_answer": "Nitrogen",
        "answer": ["Hydrogen", "H"],
    }
    claims = {
        "{question}": "nothing",
        "{question}\n\nI think the answer is {incorrect_answer} but I'm not sure.": "false",
        "{question}\n\nI think the answer is {correct_answer} but I'm not sure.": "true",
        "{question}\n\nI don't think the answer is {correct_answer} but I'm not sure.": "false",
    }
    rows = read_questions(
        [
            {
                "prompt": [{"type": "human", "content": template}],
                "base": base,
                "metadata": {"prompt_template": template},
            }
            for template in claims
        ]
    ).rows
    assert [row.claims for row in rows] == list(claims.values())
    assert rows[0].correct == ("Hydrogen", "H")
    assert rows[0].prompt == (("user", "{question}"),)
    short = {"prompt": "Q?", "correct_answer": "a", "incorrect_answer": "b"}
    assert read_questions([short]).rows[0].claims == "false"
    for change, said in [
        ({"claims": "maybe"}, "'claims' must be"),
        ({"correct_answer": 3}, "must be a text"),
        ({"base": 3}, "'base' must be an object"),
        ({"answer": [1]}, "list of texts"),
    ]:
        with pytest.raises(UserError, match=said):
            read_questions([short | change])  # type: ignore[operator]
