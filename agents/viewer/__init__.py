"""The viewer: a run as one HTML file that shows every episode, down to the token.

Purpose: look at what a model did, sort it, and compare two runs, without a server and without a network.
Contract: the page holds all data, compressed in chunks that the browser decodes when they are looked at, so ten
thousand episodes open at once. What a model or a tool wrote is only ever put on the page as text; a content security
policy admits our own script, by its hash, and nothing else.

- ``command``: ``retool view``.
- ``runs``: what is read of a run folder.
- ``pieces``: the text of each token.
- ``episodes``: an episode as the page reads it, and the columns that the list is sorted and filtered by.
- ``packing``: compressed blocks of data inside HTML.
- ``page``: the file as a whole.
- ``assets``: the page's script and style, as readable files that are put behind each other; ``docs/viewer.md`` says
  what each does.

Left out: editing, and anything that has to ask the model again.
"""

from __future__ import annotations

from agents.viewer.page import write_view

__all__ = ["write_view"]
