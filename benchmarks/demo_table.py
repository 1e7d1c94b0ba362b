"""The tables of docs/demo.md and README.md, from finished demo runs.

python benchmarks/demo_table.py runs/demo runs/demo-1 runs/demo-2
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

STAGES = {"sft": "cold start", "grpo": "GRPO", "strategic": "GRPO with a price on calls"}
COLUMNS = {"accuracy": "accuracy", "tool_rate_easy": "calls, easy family", "tool_rate_hard": "calls, hard families"}


def cell(row: dict[str, float]) -> str:
    return f"{100 * row['mean']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def main() -> None:
    runs = {}
    for folder in sys.argv[1:]:
        config = Path(folder, "config.yaml").read_text(encoding="utf-8")
        seed = next(line.split(":")[1].strip() for line in config.splitlines() if line.startswith("seed:"))
        runs[seed] = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
    print(f"| stage | mode | seed | {' | '.join(COLUMNS.values())} |")
    print("| --- " * (3 + len(COLUMNS)) + "|")
    for stage, title in STAGES.items():
        for mode in ("sampled", "greedy"):
            for seed, table in runs.items():
                cells = [cell(table[stage][f"{column}_{mode}"]) for column in COLUMNS]
                print(f"| {title} | {mode} | {seed} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
