"""A checkpoint is loaded whole, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from agents.loading import load_model
from retool_env.errors import UsageError


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_tied_weights_are_not_missing(folder: Path) -> None:
    model = load_model(str(folder))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    lost = [name for name in weights if "layers.1.self_attn.q_proj" in name]
    save_file({name: value for name, value in weights.items() if name not in lost}, folder / "model.safetensors")
    with pytest.raises(UsageError, match=f"lacks {len(lost)} of its model's weights, model.layers.1.self_attn.q_proj"):
        load_model(str(folder))


def test_a_torn_file_is_a_mistake_in_one_line(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"cannot be loaded as a causal language model: .*download the folder again"):
        load_model(str(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].contiguous()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UsageError, match="cannot be loaded as a causal language model"):
        load_model(str(folder))
