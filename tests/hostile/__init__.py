"""Hostile programs, and a judge that watches from the host's side whether a sandbox contains them.

``python -m tests.hostile`` prints the table; ``tests/retool_env/test_hostile.py`` runs the same in pytest. Every
program bounds itself (64 processes, 1 GiB, 100 MB of output, 20 s of life, files under a prefix that the judge finds
and removes), so the corpus may also be pointed at a sandbox that contains nothing.
"""
