"""The parts of ``benchmarks/rollout.py``: models, work, other engines, and the bound."""
