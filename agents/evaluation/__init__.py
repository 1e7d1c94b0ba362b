"""``retool eval`` and what is done with its run folders: numbers that can be trusted, and compared.

- :mod:`.evaluate`: play a data set with an agent, to its end, from wherever an earlier try got to.
- :mod:`.suite`: agents x data sets x seeds.
- :mod:`.identity`: what a number was measured with, and its hash. :mod:`.lineage`: what a checkpoint was trained with.
- :mod:`.folder`: the append-only run folder. :mod:`.lines`: its files of episodes, as they are written;
  :mod:`.played`: as they are read.
- :mod:`.summary`, :mod:`.text`: its numbers, and how they read.
- :mod:`.report`: one table of several evaluations. :mod:`.compare`: two of them, paired by problem.
- :mod:`.rescore`: other verifiers. :mod:`.replay`: the same ids again? :mod:`.misses`: what went wrong, by cause.

Statistics themselves are in :mod:`agents.stats`.
"""
