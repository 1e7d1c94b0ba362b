"""What leaves the trainer is what transformers and peft say the model is, whatever it was wrapped in."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from algos.sync.export import named_weights
from algos.sync.folder import prune, version_folder, write_weights
from retool_env.errors import UsageError
from tests.algos.ranks import run_ranks

IDS = torch.arange(1, 20)[None]


def make(*, tied: bool = False, seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(**shape, **heads, tie_word_embeddings=tied)).eval()


def with_lora(model: nn.Module, **settings):
    peft = pytest.importorskip("peft")
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # zero at first: a merge that forgot it would not be noticed
            nn.init.normal_(parameter, std=0.1)
    return wrapped


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_model_is_its_own_state(tied: bool) -> None:
    model = make(tied=tied)
    weights = dict(named_weights(model))
    expected = model.state_dict()
    assert set(weights) == set(expected) - ({"lm_head.weight"} if tied else set())
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_adapters_are_merged_as_peft_does_and_the_model_stays_as_it_is() -> None:
    model = with_lora(make(), modules_to_save=["lm_head"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = dict(named_weights(model))
    merged = copy.deepcopy(model).merge_and_unload().state_dict()
    assert set(weights) == set(merged)
    for name, value in merged.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)
    assert not torch.equal(
        weights["model.layers.0.self_attn.q_proj.weight"], make().state_dict()["model.layers.0.self_attn.q_proj.weight"]
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_adapter_that_cannot_be_merged_is_refused() -> None:
    with pytest.raises(UsageError, match=r"q_proj.*cannot be merged"):
        next(named_weights(with_lora(make(), use_dora=True)))


def sharded_weights(rank: int, folder: str) -> None:
    """Runs on every rank: shard, gather, compare with the model that was not sharded."""
    from torch.distributed.fsdp import fully_shard

    for lora in (False, True) if importlib.util.find_spec("peft") else (False,):
        plain = with_lora(make()) if lora else make()
        model = copy.deepcopy(plain)
        layers = model.base_model.model.model.layers if lora else model.model.layers
        for layer in layers:
            fully_shard(layer)
        fully_shard(model)
        expected = dict(named_weights(plain))
        seen = dict(named_weights(model))
        assert list(seen) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(seen[name], value, rtol=0, atol=0)
    (Path(folder) / f"rank-{rank}").touch()


def test_shards_are_gathered_on_every_rank(tmp_path: Path) -> None:
    run_ranks(sharded_weights, 2, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0", "rank-1"]


@pytest.mark.parametrize("shard_bytes", [4000, 2**30])
@pytest.mark.parametrize("tied", [False, True])
def test_a_written_folder_is_the_model(tmp_path: Path, tied: bool, shard_bytes: int) -> None:
    model = make(tied=tied)
    folder = version_folder(tmp_path, 3)
    write_weights(folder, named_weights(model), config=model.config, tokenizer=str(tmp_path), shard_bytes=shard_bytes)
    loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(loaded.eval()(IDS).logits, model(IDS).logits, rtol=0, atol=0)
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    assert (len(files) > 1) == (shard_bytes == 4000)


def test_the_type_is_cast_and_said(tmp_path: Path) -> None:
    model = make()
    weights = named_weights(model, dtype=torch.bfloat16)
    write_weights(tmp_path / "v1", weights, config=model.config, tokenizer=str(tmp_path))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "v1", dtype="auto")
    assert loaded.dtype == torch.bfloat16


def test_a_folder_is_complete_or_not_there(tmp_path: Path) -> None:
    model = make()

    def broken():
        yield from list(named_weights(model))[:3]
        raise RuntimeError("the gathering failed")

    with pytest.raises(RuntimeError, match="gathering"):
        write_weights(version_folder(tmp_path, 1), broken(), config=model.config, tokenizer=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_old_versions_go(tmp_path: Path) -> None:
    for version in range(5):
        version_folder(tmp_path, version).mkdir()
    prune(tmp_path, keep=[3, 4])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v000003", "v000004"]
