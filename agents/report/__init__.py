"""The report of a training run: one static HTML page with tables, curves and transcripts.

The page needs no network, no script and no plotting library: charts are hand-written SVG, interaction is CSS, and a
content security policy forbids everything else, because transcripts are untrusted model output.

- ``stages``: what a stage is and how its files are read.
- ``markup``: HTML that is escaped unless it was built as HTML.
- ``axes`` and ``charts``: SVG that knows nothing of reinforcement learning.
- ``tables``, ``curves`` and ``transcripts``: the sections of the page.
- ``page`` and ``style``: the page as a whole.
"""

from __future__ import annotations

from agents.report.page import write_report
from agents.report.stages import Stage

__all__ = ["Stage", "write_report"]
