"""Weights as a folder that a server can load: complete or not there, and never more than a few of them.

``ROOT/v000012`` holds version 12 in Hugging Face format: safetensors (in shards with an index when they are many),
configuration and tokenizer. It is written under another name and renamed at the end, so whoever sees it may load it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig

from agents.loading import TOKENIZER_FILES
from retool_env.files import atomic

__all__ = ["prune", "version_folder", "write_weights"]

SHARD_BYTES = 4 * 2**30


def version_folder(root: Path, version: int) -> Path:
    """Where version ``version`` lies."""
    return root / f"v{version:06d}"


def write_weights(
    folder: Path,
    weights: Iterable[tuple[str, Tensor]],
    *,
    config: PretrainedConfig,
    tokenizer: str,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write ``weights`` to ``folder``; at most one shard is held in memory.

    Args:
        config: of the model; its ``dtype`` becomes that of the weights.
        tokenizer: folder that the tokenizer's files are copied from.
        shard_bytes: a file is closed when it would become larger than this.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic(folder) as temporary:
        temporary.mkdir()
        index, total, dtype = _write_shards(temporary, weights, shard_bytes)
        if len(files := set(index.values())) == 1:  # whoever reads Hugging Face folders expects this name
            (temporary / files.pop()).rename(temporary / "model.safetensors")
        else:
            names = {"metadata": {"total_size": total}, "weight_map": index}
            (temporary / "model.safetensors.index.json").write_text(json.dumps(names, indent=1), encoding="utf-8")
        values = config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
        (temporary / "config.json").write_text(json.dumps(values, indent=1, default=str), encoding="utf-8")
        for name in TOKENIZER_FILES:
            if (source := Path(tokenizer) / name).is_file():
                shutil.copyfile(source, temporary / name)


def prune(root: Path, *, keep: Iterable[int]) -> None:
    """Remove every version but these. What another process is writing has another name and stays."""
    kept = {version_folder(root, version) for version in keep}
    for folder in root.glob("v[0-9]*"):
        if folder not in kept:
            shutil.rmtree(folder)


def _write_shards(
    folder: Path, weights: Iterable[tuple[str, Tensor]], shard_bytes: int
) -> tuple[dict[str, str], int, torch.dtype]:
    index: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    total, held, number, dtype = 0, 0, 1, torch.float32

    def close() -> None:
        nonlocal shard, held, number
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, name))
        shard, held, number = {}, 0, number + 1

    for name, tensor in weights:
        size = tensor.numel() * tensor.element_size()
        if shard and held + size > shard_bytes:
            close()
        if tensor.is_floating_point():
            dtype = tensor.dtype
        shard[name] = tensor.cpu().contiguous()
        held, total = held + size, total + size
    if shard:
        close()
    return index, total, dtype
