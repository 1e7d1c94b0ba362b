"""A checkpoint folder: are all files there that a model and its tokenizer are loaded from, and whole?

Only names, sizes, JSON and the headers of safetensors files are read, so this takes no time for any size of model, and
no torch.
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
        return
    for path in weights:
        if path.suffix == ".safetensors" and path.is_file() and (fault := _fault_of(path, _promised(folder, path))):
            yield f"{path.name}: {fault}", again


def _promised(folder: Path, path: Path) -> set[str]:
    """The tensors that the index says are in a shard."""
    index = _read(folder / "model.safetensors.index.json") or {}
    return {name for name, shard in index.get("weight_map", {}).items() if shard == path.name}


def _fault_of(path: Path, promised: set[str]) -> str:
    """What is wrong with a safetensors file: eight bytes with the length of a JSON header, the header, the data."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, path.stat().st_size)))
            end = (
                8
                + length
                + max((one["data_offsets"][1] for key, one in header.items() if key != "__metadata__"), default=0)
            )
        except (ValueError, TypeError, LookupError, AttributeError):
            return "its header cannot be read"
    if end != (size := path.stat().st_size):
        return f"{size:,} bytes, and its header says {end:,}: a download that was interrupted?"
    lacking = sorted(promised - set(header))
    return f"{len(lacking)} tensors are not in it, {lacking[0]} among them" if lacking else ""


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
