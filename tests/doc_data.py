"""Small data files under the names that the pages use, in the layouts in which they are published."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retool_env.data.tables import RawRow, write_table
from retool_env.sources.arithmetic import fixed_set
from retool_env.sources.traces import TracePhase, arithmetic_traces

__all__ = ["write_data"]

INSTRUCTION = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its "
    'own line after "Answer:".'
)


def write_data(folder: Path, count: int = 24) -> None:
    """Write them all; those of training files share no question with those of evaluation files."""
    train, held = fixed_set(2 * count, split="train").problems, fixed_set(2 * count, split="heldout").problems
    gsm8k = [{"question": one.question, "answer": f"<<{one.answer}={one.answer}>>\n#### {one.answer}"} for one in held]
    dapo = [
        {
            "data_source": "math_dapo",
            "prompt": [{"role": "user", "content": INSTRUCTION.format(one.question)}],
            "ability": "MATH",
            "reward_model": {"ground_truth": one.answer, "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": str(number)},
        }
        for number, one in enumerate(train[:count])
    ]
    aime = [{"problem": one.question, "answer": one.answer} for one in held[:count]]
    files: dict[str, list[RawRow]] = {
        "gsm8k.jsonl": [{"question": one.question, "answer": f"So.\n#### {one.answer}"} for one in train[count:]],
        "gsm8k_test.jsonl": gsm8k,
        "aime_2024.jsonl": aime[::2],
        "aime_2025.jsonl": aime[1::2],
        "data/aime_2024.jsonl": aime[::2],
        "data/gsm8k.jsonl": gsm8k,
        "retool_sft.parquet": _recordings(count),
    }
    for name, rows in files.items():
        write_table(folder / name, rows)
    pq.write_table(pa.Table.from_pylist([*dapo, *dapo]), folder / "dapo.parquet")  # nested, as it is published


def _recordings(count: int) -> list[RawRow]:
    """Rows as ReTool-SFT has them: one text of the user, one of the assistant with everything that happened."""
    rows: list[RawRow] = []
    phase = TracePhase(share=1, tool_easy=1.0, tool_hard=1.0)
    for trace in arithmetic_traces(count, seed=0, phases=[phase]):
        said = ""
        for turn in trace.turns:
            said += turn.text + "".join(f"\n<interpreter>\n{output}\n</interpreter>\n" for output in turn.outputs)
        user = f"You may write code.\n*user question:*\n{trace.problem.question}"
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
        rows.append({"messages": json.loads(json.dumps(messages))})
    return rows
