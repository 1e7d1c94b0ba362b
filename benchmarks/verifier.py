"""The verifier beside math-verify and verl's strict box: who is right, who is fooled, and what a check costs.

    python benchmarks/verifier.py [CASES.jsonl ...] [--bombs]

Without files it takes our own labelled cases. One case after another, in one process and one run, so that the machine's
mood hits all alike; times are wall time as the caller sees it, and the CPU time of the caller where that is said. The
peers are asked about hostile cases only with ``--bombs``, as math-verify takes minutes for them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retool_env.verifier import close, verify, warm_up
from retool_env.verifier.others import VERIFIERS
from retool_env.verifier.pool import WorkerPool

OWN = Path(__file__).resolve().parents[1] / "tests" / "retool_env" / "data" / "verifier_cases.jsonl"
REASONING = "Let me set the problem up. Denote the unknown by $n$ and note that $n \\equiv 3 \\pmod 7$. " * 30
SLOW = (" ".join(rf"\sin {n}x" for n in range(1, 9)), " ".join(rf"\cos {n}x" for n in range(1, 9)))
MEGABYTES = {
    "prose": "The value 12 + 3 = 15 and $x^2+1$. " * 30_000 + "Answer: 34",
    "code blocks": "Text.\n```python\nprint(1)\n```\n" * 35_000 + "\\boxed{34}",
    "boxes": "\\boxed{34} " * 90_000,
    "answer lines": "Answer: 34\n" * 95_000,
    "braces": "{" * 1_000_000,
}


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--bombs"]
    cases = [json.loads(line) for path in arguments or [OWN] for line in Path(path).read_text().splitlines()]
    warm_up(1)
    print(f"a loop of 10^6 additions takes {1e3 * best(lambda: sum(range(1_000_000))):.1f} ms on this machine, now\n")
    compare(cases, bombs="--bombs" in sys.argv)
    costs()
    close()


def compare(cases: list[dict[str, Any]], *, bombs: bool) -> None:
    """Accuracy and latency of every verifier on the same cases."""
    groups = {kind: [case for case in cases if kind_of(case) == kind] for kind in ("core", "policy", "bomb")}
    titles = f"{'verifier':12s} {'group':7s} {'cases':>5s} {'right':>7s} {'FN':>4s} {'FP':>4s}"
    print(f"{titles} {'median':>9s} {'p99':>9s} {'max':>8s}")
    for name, verifier in VERIFIERS.items():
        for kind, members in groups.items():
            if not members or (kind == "bomb" and name == "math_verify" and not bombs):
                continue
            rows = [(case, *timed(lambda case=case, v=verifier: v(response(case), case["gold"]))) for case in members]
            decided = [(case["expected"], verdict.correct) for case, verdict, _ in rows if "either" not in case["tags"]]
            missed, fooled = decided.count((True, False)), decided.count((False, True))
            share = 1 - (missed + fooled) / len(decided)
            times = [seconds for *_, seconds in rows]
            print(
                f"{name:12s} {kind:7s} {len(members):5d} {share:7.2%} {missed:4d} {fooled:4d} "
                f"{show(statistics.median(times))} {show(quantile(times, 0.99))} {max(times):7.2f}s"
            )


def costs() -> None:
    """The bars: one line each, with what they allow."""
    texts = [REASONING + f"So $m+n=\\boxed{{{index % 1000}}}$." for index in range(3000)]
    cpu = [cpu_seconds(lambda text=text: verify(text, "34")) for text in texts]
    print("\nwhat                             measured   bar")
    line("AIME-type check, CPU, median", statistics.median(cpu), "150 us")
    line("AIME-type check, CPU, p99", quantile(cpu, 0.99), "1 ms")
    for name, text in MEGABYTES.items():
        line(f"1 MB of {name}", best(lambda text=text: verify(text, "34")), "20 ms")
    verify(r"\boxed{\sqrt{8}}", r"2\sqrt2")
    pairs = [(rf"\boxed{{\sqrt{{{8 * n}}}}}", rf"2\sqrt{{{2 * n}}}") for n in range(3, 300)]
    symbolic = [timed(lambda pair=pair: verify(*pair))[1] for pair in pairs]
    line("symbolic call, warm, median", statistics.median(symbolic), "10 ms")
    line("symbolic call, warm, p99", quantile(symbolic, 0.99), "")
    line("from a kill to the next answer", statistics.median(respawns()), "250 ms")


def line(what: str, seconds: float, bar: str) -> None:
    print(f"{what:31s} {show(seconds):>9s}   {bar}")


def respawns() -> list[float]:
    """Seconds from the kill of a question that ran out of time to the answer to the next one."""
    pool = WorkerPool(1)
    pool.warm_up()
    seconds = []
    for _ in range(5):
        reply, spent = timed(lambda: pool.ask(*SLOW, seconds=0.2))
        assert reply.verdict == "timeout"
        seconds.append(spent - 0.2 + timed(lambda: pool.ask("x+1", "1+x", seconds=5.0))[1])
    pool.close()
    return seconds


def kind_of(case: dict[str, Any]) -> str:
    return next((kind for kind in ("bomb", "policy") if kind in case["tags"]), "core")


def response(case: dict[str, Any]) -> Any:
    parts = case.get("pred_parts")
    pred = "".join(text * count for text, count in parts) if parts else case["pred"]
    return f"\\boxed{{{pred}}}" if case["kind"] == "answer" else pred


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def best(call: Callable[[], Any]) -> float:
    return min(timed(call)[1] for _ in range(3))


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def show(seconds: float) -> str:
    return f"{1e3 * seconds:6.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:6.0f} us"


if __name__ == "__main__":
    main()
