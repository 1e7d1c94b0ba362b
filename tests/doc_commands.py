"""The commands that README and docs show: where they stand, what they call, and which cannot be run on any machine.

Shared by ``tests/test_docs.py``, which reads every one of them, and by ``tests/run_docs.py``, which runs them. Pages
come in the order in which a reader meets them: README, then as the site lists them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "ELSEWHERE",
    "ROOT",
    "Shown",
    "blocks",
    "commands",
    "elsewhere",
    "nav_pages",
    "pages",
    "saved_files",
    "split",
]

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SAVED = re.compile(r"# ([\w./-]+\.\w+)\n")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")

# What cannot be run by `tests/run_docs.py`, as patterns over whole lines, and why.
ELSEWHERE = {
    r"make (setup|demo|test|docs).*": "sets up an environment of its own; tried in a fresh clone",
    r"(hf|git) .*|pip install .*|retool doctor models/.*": "needs the network",
    r"(\.|export) .*": "is about the reader's own shell",
    r".*torchrun .*": "needs GPUs",
    r"(tensorboard|retool view|retool eval aime_2025) .*retool-7b.*": "reads a run that needs GPUs",
    r"retool data sft data/ReTool-SFT/.*": "needs the data set; the same command with a small file is in docs/data.md",
    r"python -m pytest .*": "is what `make test` runs",
    r".*retool serve .*": "needs SGLang; `make test-sglang` runs it",
    r"retool eval .*(api\.openai\.com|https://host).*": "needs an account",
    r"retool .*\b(CHECKPOINT|mine\.py:Mine)\b.*": "has a name that a reader fills in",
    r"retool eval --suite .*": "asks endpoints of the reader's; tests/agents/evaluation/test_suite.py runs one",
    r"python benchmarks/(?!startup).*": "a measurement of many minutes on a quiet machine, or beside downloads",
    r".*hydra/launcher=submitit_slurm.*": "needs Slurm; tests/retool_env/test_sweeps.py runs submitit's own executor",
    r".*dry_run=true model\.path=models/.*": "needs the model's config.json and tokenizer; tests/algos/test_dry_run.py",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One command line of a page, with continuation lines joined and without its comment."""

    page: str
    line: int
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def nav_pages(nav: Any = None) -> Iterator[str]:
    """Files of the site in the order of ``mkdocs.yml``."""
    entries = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"] if nav is None else nav
    if isinstance(entries, str):
        yield entries
    for entry in entries.values() if isinstance(entries, dict) else entries if isinstance(entries, list) else ():
        yield from nav_pages(entry)


def pages() -> list[Path]:
    """README and the site, as a reader meets them; pages that are in no menu come last."""
    docs = ROOT / "docs"
    listed = [docs / name for name in nav_pages()]
    return [ROOT / "README.md", *listed, *sorted(set(docs.rglob("*.md")) - set(listed))]


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Fenced blocks of a language: number of the line that each begins in, and its text."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in BLOCK.finditer(text) if match[1] == language]
    return [(text[: match.start()].count("\n") + 2, match[2]) for match in found]


def saved_files(page: Path) -> dict[str, str]:
    """Blocks that begin with the name of a file, which a reader saves under it."""
    found = [text for language in ("python", "yaml") for _, text in blocks(page, language)]
    return {match[1]: text for text in found if (match := SAVED.match(text))}


def commands(page: Path) -> list[Shown]:
    """Every line of the page's ``bash`` blocks that is no comment."""
    found = []
    for start, text in blocks(page, "bash"):
        joined, first = "", start
        for number, line in enumerate(text.splitlines(), start):
            first = first if joined else number
            joined += line.removesuffix("\\")
            if not line.endswith("\\"):
                if command := _without_comment(joined):
                    found.append(Shown(page=str(page.relative_to(ROOT)), line=first, text=command))
                joined = ""
    return found


def _without_comment(line: str) -> str:
    """The line up to a ``#`` that begins a word outside of quotes."""
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place].strip()
    return line.strip()


def split(line: str) -> list[list[str]]:
    """The programs of a line with their arguments: pipes, ``&&``, ``;`` and ``&`` cut it; wrappers are taken off."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;"):
            found.append([])
        else:
            found[-1].append(word)
    return [_unwrapped(words) for words in found if words]


def _unwrapped(words: list[str]) -> list[str]:
    """Without variables in front, redirections behind, and what ``torchrun`` and ``nice`` want for themselves."""
    while words and ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    if redirection := [k for k, word in enumerate(words) if set(word) <= set("<>")]:
        words = words[: redirection[0]]
    if words and words[0] in ("torchrun", "nice", "nohup") and "retool" in words:
        words = words[words.index("retool") :]
    return words


def elsewhere(line: str) -> str:
    """Why a line cannot be run here; empty when it can."""
    return next((reason for pattern, reason in ELSEWHERE.items() if re.fullmatch(pattern, line)), "")
