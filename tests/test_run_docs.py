"""README and tutorial as a new user meets them: empty home, no network, every command; `run_docs.py` has all pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.doc_commands import ROOT


@pytest.mark.slow
def test_every_command_of_readme_and_tutorial_runs() -> None:
    command = [sys.executable, "-m", "tests.run_docs", "--small", "README.md", "docs/tutorial.md"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
