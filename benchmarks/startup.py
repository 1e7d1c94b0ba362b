"""How long it takes until something happens: imports and help, each in a process of its own.

    python benchmarks/startup.py

Prints the median of several runs, beside a bare interpreter as the floor of the machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 9
CASES = {
    "python -c pass": ["-c", "pass"],
    "import gymnasium": ["-c", "import gymnasium"],
    "import retool_env": ["-c", "import retool_env"],
    "retool --help": ["-m", "retool_env.cli", "--help"],
    "retool train --help": ["-m", "retool_env.cli", "train", "--help"],
}


def main() -> None:
    for name, arguments in CASES.items():
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        print(f"{name:22s} median {statistics.median(seconds):6.3f} s   best {min(seconds):6.3f} s")


if __name__ == "__main__":
    main()
