"""Plans against published counts, real shards, and measured peaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, Qwen2Config

from algos.actor_critic import make_optimizer
from algos.config import SftConfig, TrainConfig
from algos.dry_run import PeakMemory, activation_bytes
from algos.plan.advice import changes
from algos.plan.command import main
from algos.plan.job import Job, job_of
from algos.plan.memory import GIB, Memory, memory
from algos.plan.shapes import KNOWN, weights_of
from algos.policy.config import LoraConfig, ParallelConfig, PolicyOptions
from algos.policy.model import build_policy, prepare, trainable
from algos.policy.world import World
from algos.scorer import Scorer
from retool_env.config import check_config
from retool_env.errors import UsageError
from tests.algos.ranks import run_ranks

PUBLISHED = {
    "Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen2.5-32B-Instruct": 32_763_876_352,
}


def config(path: object, **values: object) -> TrainConfig:
    """Short contexts, unless something else is asked for."""
    nested = {"model": {"path": str(path)}, "env": {"max_context_tokens": 256, "max_turn_tokens": 64}}
    for key, value in values.items():
        *sections, last = key.split("__")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return check_config(TrainConfig, nested)


def plan(path: object, **values: object) -> Memory:
    return memory(job_of(config(path, **values)))


def gpu(planned: Memory, *names: str) -> int:
    found = [item.gpu for item in planned.items if item.name in names]
    assert found, f"no item {names}"
    return sum(found)


def small(folder: Path, **values: object) -> Path:
    shape = {"hidden_size": 192, "intermediate_size": 640, "num_hidden_layers": 6, "num_attention_heads": 6}
    shape |= {"num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False}
    model = AutoModelForCausalLM.from_config(Qwen2Config(**(shape | values)))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert weights_of(name, None).total == PUBLISHED[name]


def test_every_known_model_is_counted() -> None:
    assert KNOWN.keys() == PUBLISHED.keys()


def test_adapters_train_two_factors_of_every_linear_layer() -> None:
    weights = weights_of("Qwen2.5-Math-1.5B", LoraConfig(r=16))
    widths = 2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960)  # q and o, k and v, the MLP
    assert weights.trained == 28 * 16 * widths
    assert weights.total == PUBLISHED["Qwen2.5-Math-1.5B"] + weights.trained
    assert not weights.head_trained


def test_a_critic_has_a_backbone_and_one_row_of_head() -> None:
    head = 152064 * 3584  # not tied in this one
    critic = weights_of("Qwen2.5-7B-Instruct", None, critic=True)
    assert critic.total == PUBLISHED["Qwen2.5-7B-Instruct"] - head + 3584 + 1


def bytes_of(tensors: object) -> int:
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return sum(t.numel() * t.element_size() for t in local)


def measure_states(rank: int, folder: str, lora: bool, out: str) -> None:
    """What a rank holds behind its first optimizer step."""
    options = PolicyOptions(lora=LoraConfig(r=4) if lora else None, compute_dtype="bfloat16")
    model = build_policy(folder, options, World.join(device="cpu"))
    optimizer = make_optimizer(trainable(model), TrainConfig().optim)
    ids = torch.arange(24).view(1, 24)
    logprobs, _ = Scorer(model)(ids, ids > 0)
    logprobs.sum().backward()
    gradients = bytes_of(p.grad for p in model.parameters() if p.grad is not None)
    optimizer.step()
    moments = [x for state in optimizer.state.values() for x in state.values() if x.numel() > 1 or x.ndim]
    mine = {"weights": bytes_of(model.parameters()), "gradients": gradients, "optimizer": bytes_of(moments)}
    held = [None] * dist.get_world_size()
    dist.all_gather_object(held, mine)
    if rank == 0:
        Path(out).write_text(json.dumps(held))


@pytest.mark.parametrize("lora", [False, True])
def test_states_are_those_of_a_sharded_model(lora: bool, tmp_path: Path) -> None:
    """Three ranks, which divide none of the model's dimensions but one."""
    if lora:
        pytest.importorskip("peft")
    folder, out = small(tmp_path / "model", hidden_size=96, num_hidden_layers=2), tmp_path / "held.json"
    run_ranks(measure_states, 3, str(folder), lora, str(out))
    held = json.loads(out.read_text())
    more = {"model__lora": {"r": 4}} if lora else {}
    planned = plan(folder, cluster__gpus=3, model__compute_dtype="bfloat16", **more)
    for item, key in (("weights of the policy", "weights"), ("gradients", "gradients"), ("optimizer", "optimizer")):
        assert gpu(planned, item) == held[0][key] == max(rank[key] for rank in held)


def test_allocations_are_added_up_and_taken_off() -> None:
    with PeakMemory() as peak:
        first = torch.empty(1000)
        view = first[:10]
        second = first + 1  # 8000 bytes now
        del first, second
        third = torch.empty(1500) + view.sum()  # the view keeps the 4000; 6000 for each of the two
        del third
    assert 16000 <= peak.bytes <= 16000 + 64


@pytest.mark.parametrize("again", [False, True])
def test_peak_of_a_step_is_the_measured_one(again: bool, tmp_path: Path) -> None:
    """A real model's second micro-batch, which adds to the gradients of the first, to 10 %."""
    folder, tokens = small(tmp_path / "model"), 768
    options = PolicyOptions(gradient_checkpointing=again)
    model = prepare(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), options, World())
    scorer = Scorer(model, chunk=128, vocab_chunk=512, keep=0)
    ids, trained = torch.randint(1000, (1, tokens)), torch.arange(tokens)[None] > 0
    scorer(ids, trained)[0].sum().backward()
    with PeakMemory([x for p in model.parameters() for x in (p, p.grad)]) as peak:
        scorer(ids, trained)[0].sum().backward()
    planned = plan(
        folder,
        model__gradient_checkpointing=again,
        algo__micro_batch_tokens=tokens,
        algo__head_rows=128,
        algo__head_columns=512,
    )
    others = gpu(planned, "weights of the policy", "gradients", "optimizer", "engine's cache", "reserve")
    kept = 4 * tokens * 1000  # the plan has the scorer's default, which keeps so few logits
    expected = max(planned.phase("backward: head") - kept, planned.phase("backward: layers")) - others
    assert peak.bytes == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("heads", [2, 6])
def test_peak_of_scoring_is_the_measured_one(heads: int, tmp_path: Path) -> None:
    """An MLP that is wide beside its attention, and one that is not."""
    shape = {"num_key_value_heads": heads, "intermediate_size": 640 if heads == 2 else 200}
    folder, tokens = small(tmp_path / "model", **shape), 768
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad(), PeakMemory(model.parameters()) as peak:
        model.model(input_ids=torch.randint(1000, (1, tokens)), use_cache=False)
    planned = plan(folder, algo__rescore=True, algo__micro_batch_tokens=100, algo__score_tokens=tokens)
    assert gpu(planned, "a layer without gradients") == pytest.approx(peak.bytes, rel=0.05)
    assert not [item for item in plan(folder).items if item.name == "a layer without gradients"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["Qwen2.5-0.5B-Instruct", "Qwen2.5-7B-Instruct"])
def test_activations_are_those_of_the_real_layers(name: str, again: bool, dtype: str, tmp_path: Path) -> None:
    """Every allocation of a pass on the meta device, to 10 %."""
    KNOWN[name].save_pretrained(tmp_path)
    settings = {"model__compute_dtype": dtype, "model__gradient_checkpointing": again}
    planned = plan(tmp_path, algo__micro_batch_tokens=4096, **settings)
    names = ("activations of the layers", "the layer in the backward pass")
    measured = activation_bytes(config(tmp_path, **settings), tokens=4096)
    assert gpu(planned, *names) == pytest.approx(measured, rel=0.1)


def test_phases_do_not_add_up() -> None:
    planned = plan("Qwen2.5-0.5B-Instruct")
    always = sum(item.gpu for item in planned.items if item.phases == ("always",))
    assert planned.gpu == max(planned.phase(p) for item in planned.items for p in item.phases)
    assert always < planned.gpu < sum(item.gpu for item in planned.items)


@given(gpus=st.integers(1, 64), offload=st.booleans(), lora=st.booleans())
def test_more_gpus_never_need_more_each(gpus: int, offload: bool, lora: bool) -> None:
    settings = {"model__compute_dtype": "bfloat16", "model__parallel": ParallelConfig(offload=offload).model_dump()}
    settings |= {"model__lora": {"r": 8}} if lora else {}
    few, many = (plan("Qwen2.5-0.5B-Instruct", cluster__gpus=n, **settings) for n in (gpus, 2 * gpus))
    assert many.gpu <= few.gpu
    held = gpu(few, "weights of the policy") if not offload else few.items[0].cpu // gpus
    assert held * gpus >= 4 * weights_of("Qwen2.5-0.5B-Instruct", LoraConfig(r=8) if lora else None).total


def test_the_engine_is_where_the_trainer_puts_it() -> None:
    name = "Qwen2.5-0.5B-Instruct"
    engines = {
        "shared": config(name),
        "copy": config(name, cluster__gpus=2),
        "elsewhere": config(name, cluster__gpus=2, agent__name="sglang"),
        None: config(name, rollout__replay="runs/x"),
    }
    for engine, settings in engines.items():
        assert job_of(settings).engine == engine
    copy = memory(job_of(config(name, cluster__gpus=2, model__compute_dtype="bfloat16", rollout__num_slots=8)))
    assert gpu(copy, "embedded engine's copy") == 2 * PUBLISHED[name]
    each = 2 * 24 * 2 * 64 * 2  # keys and values of 24 layers with 2 heads of 64 numbers of 2 bytes
    assert gpu(copy, "engine's cache") == 65536 * each
    assert gpu(copy, "episodes at work") == 250 * 256 * each  # those of an evaluation


def test_a_frozen_reference_costs_its_shards_and_adapters_save_it() -> None:
    name = "Qwen2.5-0.5B-Instruct"
    with_kl = plan(name, algo__kl={"coef": 0.1}, cluster__gpus=4)
    assert gpu(with_kl, "weights of the reference") == gpu(with_kl, "weights of the policy")
    names = {item.name for item in plan(name, algo__kl={"coef": 0.1}, model__lora={"r": 4}).items}
    assert "weights of the reference" not in names


def test_sequence_ranks_share_the_tokens() -> None:
    job: Job = job_of(config("Qwen2.5-7B-Instruct", cluster__gpus=8, model__parallel__sequence=4))
    assert (job.tokens, job.rank_tokens, job.data_ranks) == (4096, 1024, 2)


@pytest.mark.parametrize(("micro", "tokens"), [(None, 15000), (8000, 8000), (20000, 15000), (1000, 4000)])
def test_a_cold_start_cuts_its_batch_over_data_ranks(micro: int | None, tokens: int) -> None:
    """30,000 tokens on four ranks, two of which share each conversation of at most 4,000."""
    settings = {"model": {"path": "Qwen2.5-0.5B-Instruct", "parallel": {"sequence": 2}}, "cluster": {"gpus": 4}}
    settings |= {"batch_tokens": 30000, "micro_batch_tokens": micro, "env": {"max_context_tokens": 4000}}
    assert job_of(check_config(SftConfig, settings)).tokens == tokens


def test_a_cold_start_may_count_traces() -> None:
    settings = {"model": {"path": "Qwen2.5-0.5B-Instruct"}, "cluster": {"gpus": 4}, "env": {"max_context_tokens": 4000}}
    assert job_of(check_config(SftConfig, settings | {"batch_traces": 32})).tokens == 4000
    assert job_of(check_config(SftConfig, settings | {"batch_traces": 32, "micro_batch_tokens": 9000})).tokens == 9000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "model.path is not set; give a model folder, or the name of a known model"),
        ({"model": {"path": "models/Qwen2.5-7B-Instruc"}}, "did you mean 'Qwen2.5-7B-Instruct'?"),
        ({"model": {"path": "Qwen2.5-Math-1.5B"}}, "env.max_context_tokens=16384: the model has 4096 positions"),
        (
            {"model": {"path": "Qwen2.5-7B-Instruct", "parallel": {"sequence": 8}}, "cluster": {"gpus": 8}},
            "parallel.sequence=8 does not divide the model's 28 attention heads",
        ),
        (
            {"model": {"path": "Qwen2.5-7B-Instruct", "parallel": {"sequence": 4}}, "cluster": {"gpus": 6}},
            "parallel.sequence=4 does not divide 6 ranks",
        ),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        job_of(check_config(TrainConfig, settings))
    assert message in str(error.value)


def test_gpus_are_spread_evenly() -> None:
    with pytest.raises(UsageError, match="gpus=6 on nodes=4"):
        check_config(TrainConfig, {"cluster": {"gpus": 6, "nodes": 4}})


SEVEN = ["model.path=Qwen/Qwen2.5-7B-Instruct", "gpus=8", "model.compute_dtype=bfloat16", "agent=sglang"]


def test_command_says_that_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEVEN, "gpu_memory_gb=80", "model.gradient_checkpointing=true"]) == 0
    out = capsys.readouterr().out
    assert "fits: " in out and "7,615,616,512" in out and "does not" not in out
    assert "160 (20 problems x 8)" in out


def test_command_says_what_would_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEVEN, "gpu_memory_gb=24"]) == 1
    out = capsys.readouterr().out
    first = next(line for line in out.splitlines() if " brings it to " in line)
    override = first.split()[0].strip("'")
    promised = float(first.split(" brings it to ")[1].split()[0])
    main([*SEVEN, "gpu_memory_gb=24", override])
    line = next(line for line in capsys.readouterr().out.splitlines() if "GiB on the fullest GPU" in line)
    assert f"{promised:.1f}" in line


def test_advice_is_sorted_and_goes_without_what_is_set_already() -> None:
    given = config(
        "Qwen2.5-7B-Instruct", cluster__gpus=8, model__compute_dtype="bfloat16", model__parallel__offload=True
    )
    found = changes(given)
    assert [c.memory.gpu for c in found] == sorted(c.memory.gpu for c in found)
    keys = {c.override.partition("=")[0] for c in found}
    assert "model.gradient_checkpointing" in keys
    assert not keys & {"model.compute_dtype", "model.parallel.offload", "model.parallel.reshard"}


def test_command_takes_recipes_of_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=retool_qwen2.5_7b_sft"]) == 0
    assert "tokens of an optimizer step  at most 524,288" in capsys.readouterr().out
    assert main(["experiment=retool_qwen2.5_7b_sft", "gpu_memory_gb=10"]) == 1
    capsys.readouterr()
    assert main(["experiment=retool_qwen2.5_7b_grpo"]) == 0
    out = capsys.readouterr().out
    assert "4 x 80 GiB on 1 machine" in out and "episodes of a step  1,024 (64 problems x 16)" in out


def test_servers_beside_the_trainer_take_their_share() -> None:
    planned = plan("Qwen2.5-0.5B-Instruct", agent__name="sglang", cluster__engine_share=0.5)
    assert gpu(planned, "SGLang on the same GPU") == 40 * GIB


def test_help_needs_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0 and main(["--help"]) == 0
    assert "gpu_memory_gb" in capsys.readouterr().out
