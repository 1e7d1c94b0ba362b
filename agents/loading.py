"""Models and tokenizers from folders, and the switches for deterministic runs."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from retool_env.config import EnvConfig
from retool_env.errors import UsageError
from retool_env.files import atomic

__all__ = ["check_context", "load_config", "load_model", "save_checkpoint", "setup_torch"]

# Copied as they are: loading and saving a tokenizer through transformers may replace its rules by those that its model
# type usually has (5.12 does so for every Qwen2).
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)

hf_logging.disable_progress_bar()


def setup_torch(*, seed: int, threads: int | None, deterministic: bool) -> None:
    """Seed torch, set its threads, and refuse operations without a deterministic implementation."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    # Only reads of memory that was never written would differ; filling it costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)


def load_model(path: str) -> PreTrainedModel:
    """The causal language model of a checkpoint folder, in float32.

    Raises:
        UsageError: there is no checkpoint, a file of it is torn, or weights are missing, which would be random.
    """
    load_config(path)
    again = "download the folder again, or take another checkpoint (`retool doctor FOLDER` looks at it)"
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{path!r} cannot be loaded as a causal language model: {said}; {again}") from error
    model, found = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    if missing := sorted(found["missing_keys"]):
        raise UsageError(f"{path!r} lacks {len(missing)} of its model's weights, {missing[0]} among them; {again}")
    return model


def save_checkpoint(
    folder: Path, model: PreTrainedModel, tokenizer: str, extra: Callable[[Path], None] | None = None
) -> None:
    """Write model and tokenizer in Hugging Face format; the folder appears complete or not at all.

    Args:
        tokenizer: folder that the tokenizer is copied from.
        extra: writes further files into the folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic(folder) as temporary:
        model.save_pretrained(temporary)
        for name in TOKENIZER_FILES:
            if (Path(tokenizer) / name).is_file():
                shutil.copyfile(Path(tokenizer) / name, temporary / name)
        if extra is not None:
            extra(temporary)


def load_config(path: str) -> PretrainedConfig:
    """The configuration of the model of a checkpoint folder.

    Raises:
        UsageError: there is no checkpoint.
    """
    if not (Path(path) / "config.json").is_file():
        raise UsageError(f"{path!r} is no checkpoint: no config.json there; give a Hugging Face model folder")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path!r} cannot be loaded: {' '.join(str(error).split())}") from error
    return config


def check_context(config: PretrainedConfig, env: EnvConfig) -> None:
    """Refuse an episode that is longer than what the model can attend to."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and env.max_context_tokens > limit:
        raise UsageError(
            f"env.max_context_tokens={env.max_context_tokens}: the model has {limit} positions; "
            f"set env.max_context_tokens={limit} or less"
        )
