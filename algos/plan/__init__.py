"""What a training would need, reckoned from its configuration and the model's ``config.json`` alone.

:mod:`~algos.plan.shapes` (models without weights), :mod:`~algos.plan.job` (what a configuration asks for),
:mod:`~algos.plan.memory` (bytes on a GPU), :mod:`~algos.plan.advice` (what would make it smaller),
:mod:`~algos.plan.command` (``retool plan``).
"""
