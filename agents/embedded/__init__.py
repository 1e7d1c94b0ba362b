"""Generation by a transformers model in this process, batched, with the KV cache kept across an episode's turns.

The engine reads the very tensors that the trainer updates, so there is nothing to synchronise: ``set_version`` after
an optimizer step drops the KV caches of the old weights and stamps what is sampled from then on. That holds only for
an unsharded model of the dtype that is to generate; a sharded trainer gives this engine a gathered copy.

**Deterministic.** Each request draws from its own stream (its seed). The same calls of ``act_many`` in the same order
give the same bits; who calls ``act`` from several threads gets the same distribution, but batches, and with them the
last bits of sums, depend on who was quick.

What is not handled: sliding-window and hybrid caches, encoder-decoder models, more than one device.
"""

from agents.embedded.agent import EmbeddedAgent

__all__ = ["EmbeddedAgent"]
