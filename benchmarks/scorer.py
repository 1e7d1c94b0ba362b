"""Peak memory and time of the LM head at a large vocabulary: `python benchmarks/scorer.py`.

Scores random hidden states (log-probabilities and entropies, forward and backward, with the gradient of the head) once
with all logits at once and once per tile size with `algos.head`, each in a process of its own. Peak is the high-water
mark of resident memory (CUDA: of allocated memory) above what was there before: hidden states, head, and its gradient
buffer. "Tiles" is that peak without the new gradient of the head, which every way to train a head has to hold. Exit
code 1 when the default tiles miss the bar: at most 0.2 of one tensor of all logits.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from multiprocessing.connection import Connection

import torch

from algos.head import HeadSpec, score_tokens

MIB = 2**20
MOST = 0.2
TILES = ((256, 4096), (1024, 8192), (1024, 32768))


def naive(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All logits at once."""
    logprobs = (hidden @ weight.T).float().log_softmax(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def peak(device: str) -> int:
    """High-water mark so far, bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(options: argparse.Namespace, tile: tuple[int, int] | None, out: Connection) -> None:
    """One variant: peak bytes above the inputs, seconds of CPU (CUDA: of wall), and a checksum of the results."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    shape = {"device": options.device, "dtype": dtype}
    hidden = torch.randn(options.tokens, options.hidden, **shape).requires_grad_()
    weight = torch.randn(options.vocab, options.hidden, **shape).div_(options.hidden**0.5).requires_grad_()
    hidden.grad, weight.grad = torch.ones_like(hidden), torch.ones_like(weight)
    targets = torch.randint(0, options.vocab, (options.tokens,), device=options.device)
    before, clock = peak(options.device), time.perf_counter if options.device == "cuda" else time.process_time
    start = clock()
    if tile is None:
        logprobs, entropy = naive(hidden, weight, targets)
    else:
        logprobs, entropy = score_tokens(hidden, weight, targets, HeadSpec(rows=tile[0], columns=tile[1]))
    (logprobs - 0.01 * entropy).mean().backward()
    checksum = float(logprobs.detach().mean()), float(weight.grad.abs().sum())
    out.send((peak(options.device) - before, clock() - start, checksum))


def run(options: argparse.Namespace, tile: tuple[int, int] | None) -> tuple[int, float, tuple[float, float]]:
    """:func:`measure` in a fresh process."""
    # Blocks of a mebibyte and more go back to the system when they are freed: what tensors need is measured, not what
    # the allocator keeps for later.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(MIB)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(options, tile, sender))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result  # type: ignore[no-any-return]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    logits = options.tokens * options.vocab * 4
    gradient = options.hidden * options.vocab * 4
    print(f"{options.tokens} tokens x {options.vocab} entries, hidden {options.hidden}, {options.device}, ", end="")
    print(f"torch {torch.__version__}; all logits in float32: {logits / MIB:,.0f} MiB; head {gradient / MIB:,.0f} MiB")
    print(f"{'':>18}{'peak MiB':>12}{'/ logits':>10}{'tiles MiB':>12}{'/ logits':>10}{'seconds':>10}")
    default = (HeadSpec().rows, HeadSpec().columns)
    good = True
    reference: tuple[float, float] | None = None
    for tile in (None, *TILES):
        used, seconds, checksum = run(options, tile)
        reference = reference or checksum
        assert all(abs(a - b) <= 2e-3 * abs(a) for a, b in zip(reference, checksum, strict=True)), "results differ"
        tiles = used - gradient
        name = "all logits" if tile is None else f"{tile[0]} x {tile[1]}" + (" *" if tile == default else "")
        print(f"{name:>18}{used / MIB:>12,.0f}{used / logits:>10.2f}", end="")
        print(f"{tiles / MIB:>12,.0f}{tiles / logits:>10.2f}{seconds:>10.1f}")
        good &= tile != default or used <= MOST * logits
    print(f"* the default; its peak {'is' if good else 'IS NOT'} at most {MOST} of all logits")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
