"""Checkpoints: everything that a killed run needs to go on as if nothing had happened.

=========================  ==========================================================================================
``checkpoints/NAME/``      there complete or not at all
``  config.json``, ...     the policy as a plain Hugging Face model, adapters merged, with its tokenizer
``  trainer/``             trainable weights, optimizers, critic, random states (torch.distributed.checkpoint)
``  rollouts.json.gz``     the step that comes next, what rollouts keep between steps, the value of ``best``
=========================  ==========================================================================================

To *resume* reads ``trainer/`` and ``rollouts.json.gz``; a *warm start* is ``model.path=RUN/checkpoints/NAME``, which
reads the model alone.

:mod:`~algos.checkpoint.checkpoints` saves and loads, :mod:`~algos.checkpoint.state` knows which tensors there are,
:mod:`~algos.checkpoint.folders` is about names, publishing and rotation.
"""

from __future__ import annotations

from algos.checkpoint.checkpoints import Checkpoints
from algos.checkpoint.position import Position, drop_behind

__all__ = ["Checkpoints", "Position", "drop_behind"]
