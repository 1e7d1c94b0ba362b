"""TRL's fused LM head in ``benchmarks/training.py``: peak memory and CPU time, in an environment of its own.

The same work as in ``benchmarks/scorer.py``: log-probabilities and entropies, forward and backward, with the gradient
of the head, in tiles of the size that ``GRPOTrainer`` takes.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer import utils


def peak() -> int:
    """High-water mark so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    hidden = torch.randn(order["tokens"], order["hidden"]).requires_grad_()
    weight = torch.randn(order["vocab"], order["hidden"]).div_(order["hidden"] ** 0.5).requires_grad_()
    hidden.grad, weight.grad = torch.ones_like(hidden), torch.ones_like(weight)
    targets = torch.randint(0, order["vocab"], (order["tokens"],))
    columns = utils._CHUNKED_LOGPROB_CHUNK_SIZE
    before, start = peak(), time.process_time()
    logprobs, entropy, *_ = ChunkedLogProbFunction.apply(
        hidden, weight, None, targets, 1.0, columns, None, 1.0, ("log_probs", "entropy")
    )
    (logprobs - 0.01 * entropy).mean().backward()
    seconds = time.process_time() - start
    found = {"peak": peak() - before, "seconds": seconds, "mean": float(logprobs.detach().mean())}
    print(json.dumps(found | {"gradient": float(weight.grad.abs().sum())}))


if __name__ == "__main__":
    main()
