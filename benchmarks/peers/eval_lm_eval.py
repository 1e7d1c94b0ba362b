"""lm-evaluation-harness: its loop on a task that asks for the answer alone, as it has no tools.

Set to what costs it least: one task made from a configuration, no bootstrap, no cache. Its model answers at once.
"""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

from driver import ANSWERS, GOLD, NUM_SAMPLES, QUESTION, Play, serve
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

logging.disable()
ROWS = Path("product.jsonl").absolute()
ROWS.write_text(
    "".join(json.dumps({"question": QUESTION, "answer": GOLD, "number": k}) + "\n" for k in range(NUM_SAMPLES))
)
TASK = {
    "task": "product",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(ROWS)}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "do_sample": False},
    "filter_list": [
        {
            "name": "boxed",
            "filter": [
                {"function": "regex", "regex_pattern": r"\\boxed\{(\d+)\}"},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


class Instant(LM):
    """Answers at once."""

    def __init__(self) -> None:
        super().__init__()
        self._answers = itertools.cycle(ANSWERS)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return list(itertools.islice(self._answers, len(requests)))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError


def evaluation() -> Play:
    model, manager = Instant(), TaskManager(include_defaults=False)

    def play() -> int:
        found = simple_evaluate(model=model, tasks=[TASK], task_manager=manager, bootstrap_iters=0, verbosity="ERROR")
        assert found is not None
        assert found["results"]["product"]["exact_match,boxed"] == 1.0, found["results"]
        assert len(found["samples"]["product"]) == NUM_SAMPLES
        return NUM_SAMPLES

    return play


serve({"answer": evaluation()})
