"""One episode as HTML: who wrote what, in colours, without a script, a style sheet or a network."""

from __future__ import annotations

import html
from typing import Final

from retool_env.episode import Episode

__all__ = ["episode_html"]

_COLOURS: Final = {"prompt": "#8884", "assistant": "#4a90d944", "tool": "#5aa46944"}


def episode_html(episode: Episode) -> str:
    """A fragment: one block for each span of the transcript, in order, and the outcome."""
    blocks = []
    for span in episode.spans:
        text = html.escape(episode.tokenizer.decode(episode.token_ids[span.start : span.end]))
        label = span.role if span.role == "prompt" else f"{span.role} {span.turn + 1}"
        blocks.append(
            f'<section style="background:{_COLOURS[span.role]};margin:4px;padding:6px;border-radius:4px">'
            f"<small>{label}, {span.end - span.start} tokens</small>"
            f'<pre style="white-space:pre-wrap;margin:2px 0">{text}</pre></section>'
        )
    outcome = f"<p>outcome: <b>{episode.outcome}</b></p>" if episode.outcome else ""
    return f'<article class="retool-episode">{"".join(blocks)}{outcome}</article>'
