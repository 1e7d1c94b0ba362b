"""A stand-in for an SGLang server: the same protocol, traps included, in front of a real tiny model or of random ids.

``python -m tests.agents.fake_sglang MODEL_FOLDER`` (or ``--random``) serves on a port of its own and prints where.
"""
