"""Draws the pictures of ``docs/concepts.md``: ``python docs/make_pictures.py runs/grpo/trajectories.jsonl``.

The episode in them is a real one, the shortest right one with one call in the file that is named; advantages are those
that :mod:`algos.advantages` computes. Each picture has a background of its own and follows the reader's light or dark
scheme, so it can be read on any page.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from algos.advantages import Episodes, make_advantage
from retool_env.tokenizer import Tokenizer, load_tokenizer
from retool_env.trajectory import Trajectory, read_trajectories

FOLDER = Path(__file__).resolve().parent / "assets"
STYLE = """\
  <style>
    svg { font: 14px system-ui, sans-serif; --page: #fff; --line: #c8ccd4; --ink: #1f2328; --pale: #59636e;
      --world: #eef0f3; --policy: #dbe9ff; --tool: #ffe9cf; --good: #d9f2df; --bad: #fde0e0; --strong: #2458c5; }
    @media (prefers-color-scheme: dark) {
      svg { --page: #1b1e25; --line: #4a515e; --ink: #e6e8ec; --pale: #a3abb8;
        --world: #2c313b; --policy: #1f3a6b; --tool: #5a3b12; --good: #1d4a2b; --bad: #5c2626; --strong: #8fb4ff; }
    }
    text { fill: var(--ink); } .pale { fill: var(--pale); } .mono { font-family: ui-monospace, monospace; }
    .strong { fill: var(--strong); font-weight: 600; } .small { font-size: 12px; } .mid { text-anchor: middle; }
    .end { text-anchor: end; } .box { stroke: var(--line); }
    .world { fill: var(--world); } .policy { fill: var(--policy); } .tool { fill: var(--tool); }
    .good { fill: var(--good); } .bad { fill: var(--bad); }
    path { stroke: var(--pale); stroke-width: 1.5; fill: none; } .head { fill: var(--pale); stroke: none; }
  </style>
  <defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
    <path class="head" d="M0,0 L8,4 L0,8 Z"/></marker></defs>
"""


def picture(name: str, width: int, height: int, title: str, parts: Iterable[str]) -> None:
    """Write one file; ``title`` is what a screen reader says."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
    frame = f'  <title>{title}</title>\n  <rect width="{width}" height="{height}" rx="8" fill="var(--page)"/>\n'
    body = "".join(f"  {part}\n" for part in parts)
    (FOLDER / f"{name}.svg").write_text(f"{head}{STYLE}{frame}{body}</svg>\n", encoding="utf-8")


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words at a baseline; ``kind`` holds classes of ``STYLE``."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" xml:space="preserve">{html.escape(words, quote=False)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A rounded rectangle."""
    return f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'


def arrow(*points: tuple[float, float]) -> str:
    """A line through the points, with a head at the last one."""
    return f'<path d="M{" L".join(f"{x:g},{y:g}" for x, y in points)}" marker-end="url(#a)"/>'


def stage(x: float, y: float, width: float, kind: str, title: str, *lines: str) -> list[str]:
    """A box with a title and lines in it."""
    middle = x + width / 2
    rows = [text(middle, y + 45 + 19 * k, line, "mid small pale") for k, line in enumerate(lines)]
    return [box(x, y, width, 36 + 19 * len(lines), kind), text(middle, y + 24, title, "mid"), *rows]


def draw_loop() -> None:
    """An episode from problem to reward."""
    parts = [
        *stage(20, 40, 120, "world", "problem", "question, gold"),
        *stage(190, 40, 170, "policy", "the policy samples", "one turn, up to", "its stop"),
        *stage(440, 40, 150, "tool", "the sandbox runs it", "output, error,", "or a limit"),
        *stage(440, 180, 150, "world", "the verifier reads", "the last turn only"),
        *stage(660, 180, 150, "good", "reward", "+1, -1, or none"),
        arrow((140, 68), (188, 68)),
        arrow((360, 62), (438, 62)),
        text(399, 53, "a call", "mid small pale"),
        arrow((515, 114), (515, 140), (275, 140), (275, 116)),
        text(395, 157, "its output joins the context", "mid small pale"),
        arrow((230, 114), (230, 208), (438, 208)),
        text(330, 201, "an answer", "mid small pale"),
        arrow((590, 208), (658, 208)),
        text(
            20, 272, "One step of the environment is one turn. Infrastructure that fails ends an episode", "small pale"
        ),
        text(20, 290, "without a reward; it is never a reward of 0.", "small pale"),
    ]
    picture("episode", 830, 308, "An episode: problem, turns with tool calls, verdict, reward", parts)


def shortest(path: Path) -> Trajectory:
    """The shortest right episode with one call."""
    right = [t for t in read_trajectories(path) if t.record.correct and len(t.record.calls) == 1]
    return min(right, key=lambda trajectory: len(trajectory.transcript))


def draw_tokens(trajectory: Trajectory, tokenizer: Tokenizer) -> None:
    """The four aligned arrays of an episode, cut into lines."""
    transcript = trajectory.transcript
    rows = ("text", "id", "action_mask", "logprob", "version")
    cells: list[tuple[tuple[str, ...], str]] = []
    for k, token in enumerate(transcript.token_ids.tolist()):
        sampled = bool(transcript.action_mask[k])
        logprob = f"{transcript.logprobs[k]:.3f}" if sampled else "NaN"
        shown = tokenizer.decode([token]).replace("\n", "\\n").replace(" ", "\u00b7")
        entry = (shown, str(token), str(int(sampled)), logprob, str(transcript.policy_version[k]))
        first = next(i for i, mask in enumerate(transcript.action_mask) if mask)
        cells.append((entry, "policy" if sampled else "world" if k < first else "tool"))
    parts: list[str] = []
    x, y = 120.0, 24.0
    for entry, kind in cells:
        width = max(46.0, 9.0 * max(map(len, entry)) + 12)
        if x + width > 900:
            x, y = 120.0, y + 128
        if x == 120.0:
            parts += [text(108, y + 17 + 22 * row, name, "end small pale") for row, name in enumerate(rows)]
        parts.append(box(x, y - 2, width, 112, kind))
        for row, value in enumerate(entry):
            style = "mid mono" if row == 0 else "mid mono small" + (" pale" if value in ("NaN", "-1") else "")
            parts.append(text(x + width / 2, y + 17 + 22 * row, value, style))
        x += width + 4
    y += 132
    for k, (kind, words) in enumerate(
        (("world", "prompt"), ("policy", "sampled by the policy"), ("tool", "written by the environment"))
    ):
        parts += [box(120 + 240 * k, y, 16, 16, kind), text(144 + 240 * k, y + 13, words, "small")]
    picture("tokens", 920, int(y + 36), "The tokens of a real episode, with mask, log-probability and version", parts)


def draw_credit() -> None:
    """Advantages over what the policy wrote; the tool's tokens are skipped."""
    values = [0.3, 0.35, None, None, None, 0.6, 0.7]
    mask = np.array([value is not None for value in values])
    credit = make_advantage("gae", lam=0.95, normalise=False)(
        Episodes(
            rewards=np.array([1.0]),
            groups=np.array([0]),
            trained=[mask],
            values=[np.array([0.0 if value is None else value for value in values])],
        )
    )
    parts = []
    for k, value in enumerate(values):
        x, kind = 130 + 92 * k, "tool" if value is None else "policy"
        parts += [box(x, 50, 80, 78, kind), text(x + 40, 74, "tool" if value is None else f"token {k + 1}", "mid")]
        if value is not None:
            parts.append(text(x + 40, 96, f"V = {value:g}", "mid small pale"))
            parts.append(text(x + 40, 117, f"A = {credit.advantages[0][k]:+.3f}", "mid small strong"))
        else:
            parts.append(text(x + 40, 106, "no step", "mid small pale"))
    parts += [text(20, 80, "what was", "small pale"), text(20, 97, "written", "small pale")]
    parts += [arrow((722, 156), (722, 134)), text(722, 172, "reward 1", "mid small")]
    for start, end in ((630, 722), (262, 630), (170, 262)):
        parts.append(f'<path d="M{end},46 C{end},16 {start},16 {start},46" marker-end="url(#a)"/>')
    parts.append(text(446, 16, "\u03bb\u03b3 once, however long the output was", "mid small pale"))
    picture("credit", 800, 190, "Advantages pass over what a tool wrote", parts)


def draw_group() -> None:
    """A group: rewards, baseline, advantages; one member is excluded, one group says nothing."""
    rewards: list[float | None] = [1, -1, -1, 1, None, -1, -1, -1]
    scored = np.array([reward for reward in rewards if reward is not None])
    spread = scored.std(ddof=1) + 1e-6
    parts = [text(20, 34, "one problem, eight samples", ""), text(20, 66, "reward", "small pale")]
    parts.append(text(20, 148, "advantage", "small pale"))
    for k, reward in enumerate(rewards):
        x = 110 + 84 * k
        kind = "world" if reward is None else "good" if reward > 0 else "bad"
        parts.append(box(x, 46, 74, 30, kind))
        parts.append(text(x + 37, 66, "outage" if reward is None else f"{reward:+d}", "mid small"))
        if reward is None:
            parts.append(text(x + 37, 148, "excluded", "mid small pale"))
            continue
        advantage = float((reward - scored.mean()) / spread)
        height = 34 * abs(advantage)
        top = 144 - height if advantage > 0 else 144
        parts.append(box(x + 14, top, 46, height, kind))
        parts.append(text(x + 37, top - 6 if advantage > 0 else top + height + 15, f"{advantage:+.2f}", "mid small"))
    note = f"mean {scored.mean():+.2f} and standard deviation {spread:.2f} of the seven that count (GRPO)"
    parts.append(text(110, 208, note, "small pale"))
    picture("group", 800, 224, "A group of samples: rewards, and advantages against the group's mean", parts)


def main() -> None:
    """Draw all of them."""
    trajectory = shortest(Path(sys.argv[1]))
    checkpoint = Path(sys.argv[1]).parent / "checkpoints" / "final"
    draw_loop()
    draw_tokens(trajectory, load_tokenizer(str(checkpoint)))
    draw_credit()
    draw_group()


if __name__ == "__main__":
    main()
