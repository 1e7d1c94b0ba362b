"""A checkpoint folder: are all files there that a model and its tokenizer are loaded from, and whole?

Only names, sizes and JSON are read, so this takes no time for any size of model, and no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from retool_env.doctor.finding import Finding

__all__ = ["examine_checkpoint"]

_POINTER: Final = 1024
"""Weights below this size in bytes are a Git LFS pointer: what a clone without LFS leaves."""


def examine_checkpoint(folder: Path) -> list[Finding]:
    """What is wrong with a folder, one finding each; one that says what it holds where nothing is."""
    topic = f"checkpoint {folder}"
    if not folder.is_dir():
        fix = f"hf download OWNER/NAME --local-dir {folder}"
        return [Finding(topic=topic, said="no such folder", level="wrong", fix=fix)]
    found = [Finding(topic=topic, said=said, level="wrong", fix=fix) for said, fix in _faults(folder)]
    if not (folder / "tokenizer_config.json").is_file():
        said = "no tokenizer_config.json: its end-of-turn token and chat template are not known"
        found.append(
            Finding(topic=topic, said=said, level="note", fix="copy it from the model that this one comes from")
        )
    if found:
        return found
    config = _read(folder / "config.json") or {}
    template = "with" if _has_template(folder) else "without"
    positions = config.get("max_position_embeddings", "unknown")
    return [Finding(topic=topic, said=f"{config.get('model_type')}, {positions} positions, {template} chat template")]


def _faults(folder: Path) -> Iterator[tuple[str, str]]:
    again = "download the folder again: hf download OWNER/NAME --local-dir FOLDER"
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            fix = "save the tokenizer as a fast one" if name == "tokenizer.json" else "give the folder that holds it"
            yield f"no {name}", f"{fix}, or {again}"
        elif _read(folder / name) is None:
            yield f"{name} is no JSON", again
    weights = _weights(folder)
    if not weights:
        yield "no weights: neither model.safetensors nor pytorch_model.bin nor an index of shards", again
    if missing := [path.name for path in weights if not path.is_file()]:
        yield f"{len(missing)} of {len(weights)} shards are missing: {', '.join(missing[:3])}", again
    if small := [path.name for path in weights if path.is_file() and path.stat().st_size < _POINTER]:
        yield f"{', '.join(small[:3])}: a few bytes, so a pointer of Git LFS and no weights", "git lfs pull"


def _weights(folder: Path) -> list[Path]:
    """Files that hold weights, those included that an index names and that are not there."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        if (folder / stem).is_file():
            return [folder / stem]
        index = _read(folder / f"{stem}.index.json") or {}
        if names := sorted(set(index.get("weight_map", {}).values())):
            return [folder / name for name in names]
    return []


def _has_template(folder: Path) -> bool:
    settings = _read(folder / "tokenizer_config.json") or {}
    return (folder / "chat_template.jinja").is_file() or bool(settings.get("chat_template"))


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; ``None`` where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
