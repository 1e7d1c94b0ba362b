"""``retool report SWEEP...``: the cells of a sweep, pooled over seeds, in one table and one plot.

- :mod:`.runs`: what one run came to.
- :mod:`.pool`: cells that differ in nothing but the seed, with a 95 % interval across seeds.
- :mod:`.tables`: Markdown, terminal, JSON.
- :mod:`.plot`: learning curves, or final accuracies where there are none.
- :mod:`.command`: the command line.

Contract: reads run folders and changes nothing in them; ``report.md``, ``report.json`` and ``report.svg`` are written
beside the cells. A sweep that is still running can be reported on. Left out: comparing cells problem by problem, which
``retool compare`` does.
"""
