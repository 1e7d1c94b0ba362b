"""Files of problems: every published layout, what is left out and said, and that the gold stays where it belongs."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retool_env.dialects import make_dialect
from retool_env.envs.math_tool import MathToolEnv
from retool_env.errors import MissingExtraError, UsageError
from retool_env.problems import Problem
from retool_env.rewards import load_reward_function
from retool_env.sources import ListSource, open_source
from retool_env.sources.layouts import LAYOUTS, detect_layout, read_row
from retool_env.sources.settings import is_gold_key, tool_settings
from retool_env.sources.wording import question_key
from retool_env.tools import interpreter_spec

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its "
    'own line after "Answer:".'
)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def opened(path: Path, **options: Any) -> ListSource:
    source = open_source("file", path=path, **options)
    assert isinstance(source, ListSource)
    return source


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def dapo(question: str, gold: str, index: int | str = "a", **extra: Any) -> dict[str, Any]:
    return {
        "data_source": "math_dapo",
        "prompt": user(DAPO.format(question)),
        "ability": "MATH",
        "reward_model": {"ground_truth": gold, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index, **extra},
    }


PUBLISHED = [
    ("dapo", dapo("Q?", "34", "b2c3"), "math_dapo/b2c3", "Q?", "34"),
    ("gsm8k", {"question": "Q?", "answer": "6*7 = <<6*7=42>>42\n#### 1,042"}, "gsm8k/0", "Q?", "1042"),
    ("math", {"problem": "Q?", "solution": "s", "answer": "p - q", "unique_id": "t/7"}, "f/t/7", "Q?", "p - q"),
    ("aime", {"input": "Q?", "output": 45}, "f/0", "Q?", "45"),
    ("aime", {"ID": "2024-I-1", "Problem": "Q?", "Solution": "s", "Answer": 204}, "f/2024-I-1", "Q?", "204"),
    ("plain", {"prompt": "Q?", "answer": "42"}, "f/0", "Q?", "42"),
    ("plain", {"prompt": "What is 15 + 27?", "answer": "Sum: 42"}, "f/0", "What is 15 + 27?", "Sum: 42"),
    ("plain", {"question": "Q?", "ground_truth": "42", "predicted_answer": "41"}, "f/0", "Q?", "42"),
    ("plain", {"question": "Q?", "ground_truth": ["42", "42.0"]}, "f/0", "Q?", "42"),
    ("rlvr", {"messages": user("Q?"), "ground_truth": "42", "dataset": "MATH"}, "f/0", "Q?", "42"),
    ("response", {"prompt": "Q?", "response": "so \\boxed{42}", "tools_kwargs": {}}, "f/0", "Q?", "42"),
    ("prepared", {"id": "a/1", "prompt": "Q?", "answer": "42", "source": "a"}, "a/1", "Q?", "42"),
]


@pytest.mark.parametrize(("layout", "row", "name", "question", "answer"), PUBLISHED)
def test_published_layouts(
    layout: str, row: dict[str, Any], name: str, question: str, answer: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "f.jsonl", row)
    assert detect_layout(row, "x").name == layout
    (found,) = opened(path).problems
    assert (found.id, found.prompt, found.answer) == (name, question, answer)
    (named,) = opened(path, layout=layout).problems
    assert named == found
    assert open_source(layout, path=path).problem(0) == found  # `problems=gsm8k` is short for the layout


def test_further_columns_are_facts_for_reward_functions(tmp_path: Path) -> None:
    row = {"prompt": "15 + 27?", "answer": "Sum: 42", "tool": "add", "difficulty": 2, "tags": ["a"], "family": "sums"}
    path = write(tmp_path / "f.jsonl", row)
    (found,) = opened(path).problems
    assert found.metadata == {"tool": "add", "difficulty": "2"}
    said = [{"role": "assistant", "content": ""}, {"role": "tool", "name": "add", "content": "Sum: 42"}]
    assert load_reward_function("tool_selection")([said], [found.answer], tool=[found.metadata["tool"]]) == [1.0]


def test_conversations_keep_their_other_messages_and_lose_the_answer(tmp_path: Path) -> None:
    system, template = "Be brief.", "Please reason step by step, and put your final answer within \\boxed{}."
    answered = [{"role": "assistant", "content": "It is 42."}]
    rows = [
        {"messages": [{"role": "system", "content": system}, *user("A?"), *answered], "ground_truth": "42"},
        {"messages": [{"role": "system", "content": template}, *user("B?"), *answered], "ground_truth": "42"},
    ]
    first, second = opened(write(tmp_path / "f.jsonl", *rows)).problems
    assert [message.model_dump() for message in first.prompt if not isinstance(message, str)] == [
        {"role": "system", "content": system},
        *user("A?"),
    ]
    assert second.prompt == "B?"


def test_every_kind_of_file_gives_the_same_problems(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [{"question": f"Q{k}: 1,2?", "ground_truth": str(k)} for k in range(5)]
    write(tmp_path / "f.jsonl", *rows)
    (tmp_path / "f.json").write_text(json.dumps(rows, indent=1))
    with (tmp_path / "f.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "ground_truth"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    expected = opened(tmp_path / "f.jsonl").problems
    assert [problem.answer for problem in expected] == list("01234")
    for name in ("f.json", "f.csv", "f.parquet"):
        assert opened(tmp_path / name).problems == expected


UNREADABLE = [
    ({"file": "f.jsonl"}, "its columns (a, b) are of no layout; known: dapo, prepared, gsm8k"),
    ({"file": "g.jsonl"}, "'promt'; did you mean 'prompt'?"),
    ({"file": "f.jsonl", "layout": "gsm9k"}, "problems.layout='gsm9k' is unknown; did you mean 'gsm8k'?"),
    ({"file": "f.jsonl", "layout": "math"}, "no text column 'problem'; it has 'a', 'b'"),
    ({"file": "t.jsonl"}, "t.jsonl:1: tools_kwargs='x'; expected an object"),
    ({"file": "n.jsonl"}, "problems.path='"),
    ({"file": "l.json"}, "l.json: a int; expected a list of objects"),
    ({"file": "c.csv"}, "c.csv: row 1 has not as many fields as the header"),
    ({"file": "e.jsonl"}, "no gold answer can be graded; run `retool data check"),
]


@pytest.mark.parametrize(("options", "message"), UNREADABLE)
def test_what_cannot_be_read_is_named(options: dict[str, str], message: str, tmp_path: Path) -> None:
    write(tmp_path / "f.jsonl", {"a": 1, "b": 2})
    write(tmp_path / "g.jsonl", {"promt": "Q?", "answer": "1"})
    write(tmp_path / "t.jsonl", {"prompt": "Q?", "answer": "1", "tools_kwargs": '"x"'})
    write(tmp_path / "e.jsonl", {"prompt": "Q?", "answer": ""})
    (tmp_path / "l.json").write_text("1")
    (tmp_path / "c.csv").write_text("prompt,answer\nQ\n")
    options = dict(options)
    with pytest.raises(UsageError) as error:
        opened(tmp_path / options.pop("file"), **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_do_not_fit_together() -> None:
    with pytest.raises(UsageError, match=r"problems='fil' is unknown; did you mean 'file'\?"):
        open_source("fil")
    with pytest.raises(UsageError, match="problems=arithmetic reads no file; add problems=file"):
        open_source(path="x.jsonl")
    with pytest.raises(UsageError, match="problems=arithmetic has train and heldout"):
        open_source(split="test")


def test_repeats_and_contradictions_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        dapo("What is $1+1$?", "2", 1),
        dapo("What is $1+1$?", "2", 1),
        dapo("What is $1 + 1$ ?", "2.0", 2),  # the same in another writing, with an equal gold
        dapo("What is $2+2$?", "4", 3),
        dapo("What is $1+1$?", "3", 4),
        dapo("What is $3+3$?", "", 5),
    ]
    path = write(tmp_path / "f.jsonl", *rows)
    with caplog.at_level(logging.WARNING):
        source = opened(path)
    assert [problem.id for problem in source.problems] == ["math_dapo/1", "math_dapo/3"]
    assert (source.num_rows, source.num_repeats) == (6, 2)
    assert [(one.id, one.reason) for one in source.dropped] == [
        ("math_dapo/4", "other_gold than math_dapo/1"),
        ("math_dapo/5", "empty_gold"),
    ]
    assert "dropped 1 problems whose question came before with another gold: math_dapo/4" in caplog.text
    assert "dropped 1 problems whose gold cannot be graded: math_dapo/5" in caplog.text
    assert "6 rows, 2 unique problems; 2 repeats left out (problems.unique=false keeps them)" in caplog.text
    everything = opened(path, unique=False).problems
    assert [problem.id for problem in everything] == [
        "math_dapo/1",
        "math_dapo/1~2",
        "math_dapo/2",
        "math_dapo/3",
        "math_dapo/4",
    ]


@given(st.data())
def test_digits_that_stand_apart_are_other_questions(data: st.DataObject) -> None:
    digits = data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=8))
    cuts = [data.draw(st.integers(1, len(digits) - 1)) for _ in range(2)]
    texts = ["".join(map(str, digits[:cut])) + "}{" + "".join(map(str, digits[cut:])) for cut in cuts]
    first, second = (question_key(f"\\frac{{{text}}}") for text in texts)
    assert (first == second) == (cuts[0] == cuts[1])


def test_different_questions_stay_different(tmp_path: Path) -> None:
    questions = [*("12 × 4", "12 ÷ 4", "12 − 4", "12 + 4"), *("5!", "5", "20%", "20"), *("f(3)", "f'(3)"), "2*(3+4)"]
    questions += [
        r"\sqrt{9+16}",
        r"\sqrt{9}+16",
        r"|2-3|",
        "2-3",
        "x ≤ 3",
        "x ≥ 3",
        "2*3+4",
        r"a \times b",
        r"a \cdot b",
    ]
    path = write(tmp_path / "f.jsonl", *({"prompt": f"What is {one}?", "answer": "1"} for one in questions))
    assert opened(path).size == len(questions)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"$12 \times 4$", "12 × 4"),
        ("12*4", r"\(12 \cdot 4\)"),
        (r"12 \div 4", "12 / 4"),
        ("12 − 4", "12-4"),
        (r"$\left(3+4\right)\cdot 2^{10}$", "(3 + 4) * 2^10"),
        ("2^(x+1)", "$2^{x+1}$"),
        (r"$\left|x\right|$", "|x|"),
        (r"$f^{\prime}(x)$", "f′(x)"),
        (r"$\sin(\theta)$", r"\sin \theta"),
        (r"\{1, 2\}", "{1,2}"),
        (r"90^{\circ}", r"90^\circ"),
        ("Don't guess!", "Don’t guess."),
        (r"\[x \leq 3\]", "x ≤ 3"),
    ],
)
def test_writings_of_one_question_meet(first: str, second: str) -> None:
    assert question_key(first) == question_key(second)


def test_the_first_n_are_the_first_n(tmp_path: Path) -> None:
    golds = ["1", "2", "", "4", "5", "6"]
    path = write(tmp_path / "f.jsonl", *({"prompt": f"Q{k}?", "answer": gold} for k, gold in enumerate(golds)))
    whole = opened(path).problems
    for size in range(1, 6):
        assert opened(path, size=size).problems == whole[:size]
    assert opened(path, size=100).problems == whole


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"prompt": "Q?", "answer": "1"})
    assert opened(path) is opened(path)
    before = path.stat()
    write(path, {"prompt": "Q?", "answer": "2"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert opened(path).problem(0).answer == "2"


# Whatever a row holds, the gold is in ``answer`` and nowhere that policy or sandbox can see.
GOLD = "GOLD7319"
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text("abc", max_size=5))
NAMES = st.sampled_from(["a", "files", "timeout", "ground_truth", "answer", "gt", "gold_answer", "Solution", "label"])


@st.composite
def settings(draw: st.DrawFn, depth: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=5)):
        if is_gold_key(name):
            found[name] = draw(st.sampled_from([GOLD, [GOLD], {"value": GOLD}]))
        elif depth and draw(st.booleans()):
            found[name] = draw(settings(depth - 1))
        else:
            found[name] = draw(st.one_of(LEAVES, st.lists(settings(0), max_size=2)))
    return found


@given(
    layout=st.sampled_from(["dapo", "gsm8k", "math", "aime", "rlvr", "plain", "response"]),
    kwargs=st.dictionaries(st.sampled_from(["code_interpreter", "other"]), settings()),
    as_text=st.booleans(),
    dialect=st.sampled_from(["retool", "hermes", "markdown"]),
)
def test_the_gold_reaches_neither_prompt_nor_tools(
    layout: str, kwargs: dict[str, Any], as_text: bool, dialect: str
) -> None:
    rows: dict[str, dict[str, Any]] = {
        "dapo": dapo("Q?", GOLD, raw_answer=GOLD),
        "gsm8k": {"question": "Q?", "answer": f"so <<1={GOLD}>> #### {GOLD}"},
        "math": {"problem": "Q?", "answer": GOLD, "solution": GOLD, "subject": "Algebra"},
        "aime": {"input": "Q?", "output": GOLD},
        "rlvr": {"messages": [*user("Q?"), {"role": "assistant", "content": GOLD}], "ground_truth": GOLD},
        "plain": {"prompt": "Q?", "answer": GOLD, "predicted_answer": GOLD},
        "response": {"prompt": "Q?", "response": f"\\boxed{{{GOLD}}}"},
    }
    row = {**rows[layout], "tools_kwargs": json.dumps(kwargs) if as_text else kwargs}
    problem = read_row(LAYOUTS[layout], row, number=1, where="f:1", stem="f", removed=set())
    assert isinstance(problem, Problem)
    assert problem.answer == GOLD
    messages = make_dialect(dialect).build_prompt(problem, [interpreter_spec()])
    seen = json.dumps([message.model_dump() for message in messages]) + json.dumps(problem.tools_kwargs)
    assert GOLD not in seen
    assert "Q?" in seen


def test_what_is_no_gold_reaches_the_tools_as_it_is() -> None:
    given_settings = {"files": {"answers.csv": "1,2", "golden.txt": "x"}, "timeout": 3, "rows": [{"a": 1}]}
    verl = {"create_kwargs": {**given_settings, "ground_truth": "42"}, "calc_reward_kwargs": {"x": 1}}
    removed: set[str] = set()
    settings = tool_settings({"code_interpreter": verl, "filled_in_by_parquet": None}, "f:1", removed)
    assert settings == {"code_interpreter": {"create_kwargs": given_settings}}
    assert removed == {"ground_truth"}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"tools_kwargs": {"code_interpreter": {"create_kwargs": {"files": {"d.txt": "hello"}, "ground_truth": "4"}}}},
        {"extra_info": {"tools_kwargs": {"code_interpreter": {"files": {"d.txt": "hello"}}}}},
        {"create_kwargs": {"files": {"d.txt": "hello"}}},
    ],
)
def test_settings_of_a_problem_reach_its_sandbox(kwargs: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"prompt": "Q?", "answer": "4", **kwargs})
    env = MathToolEnv(problems={"name": "file", "path": str(path)}, wall_seconds=60.0)
    try:
        env.reset(seed=0)
        tokenizer = env.episode.tokenizer
        observation, *_ = env.step(tokenizer.encode("<code>print(open('d.txt').read())</code>"))
        assert tokenizer.decode(observation["token_ids"]).endswith("<interpreter>\nhello\n</interpreter>\n")
    finally:
        env.close()


def test_the_hub_without_its_library() -> None:
    with pytest.raises(UsageError, match="expected hf:owner/name"):
        open_source("file", path="hf:nonsense")
    if importlib.util.find_spec("datasets"):
        pytest.skip("the [hub] extra is installed")
    with pytest.raises(MissingExtraError, match=r"needs nothing: problems.path=FILE\) needs the \[hub\] extra"):
        open_source("file", path="hf:owner/name")
