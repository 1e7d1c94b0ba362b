"""The policy as the trainer holds it: precision, adapters, recomputation, and shards over ranks.

Import from the modules: :mod:`~algos.policy.world` (ranks), :mod:`~algos.policy.model` (weights),
:mod:`~algos.policy.ulysses` (long sequences), :mod:`~algos.policy.reference` (the frozen policy).
"""
