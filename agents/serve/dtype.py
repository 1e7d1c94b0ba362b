"""The type of the weights on a server, where the user names none and SGLang's own choice would be a bad one.

SGLang serves a checkpoint whose config says float32 in float16, which has the range of neither float32 nor bfloat16.
Checkpoints of this project are float32: their type is said on the command line, so that it can be seen and overruled.

Left out: models that are named rather than given as a folder; SGLang chooses for them.
"""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["served_dtype"]


def served_dtype(model: str, *, gpus: bool) -> str | None:
    """What a server should use for the weights of ``model``: bfloat16 for float32 on GPUs, float32 without GPUs.

    Returns:
        ``None`` where SGLang's choice is that of the checkpoint.
    """
    if _said(Path(model).expanduser() / "config.json") != "float32":
        return None
    return "bfloat16" if gpus else "float32"


def _said(path: Path) -> str | None:
    """The type that a config names; ``None`` without one. A config that cannot be read is for SGLang to refuse."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    said = (config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else None
    return said if isinstance(said, str) else None
