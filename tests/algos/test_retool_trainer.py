"""``ReToolTrainer`` writes the configuration of ``retool train`` and runs it; what it cannot do it says."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, TrainingArguments

from agents.loading import load_model
from agents.run_folder import read_metrics
from algos.retool_trainer import ReToolTrainer
from algos.train import train
from retool_env.errors import UsageError
from tests.conftest import TINY_ENV

pytest.importorskip("accelerate", reason="transformers' TrainingArguments need it")

ROWS = [{"prompt": f"Compute {k} + {k}.", "answer": str(2 * k)} for k in range(1, 9)]
ENV = [
    f"env.{key}={str(value).lower()}" for key, value in TINY_ENV.items() if "turn" not in key and "rounds" not in key
]


def arguments(out: Path, **settings) -> TrainingArguments:
    usual = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2, "use_cpu": True}
    return TrainingArguments(output_dir=str(out), report_to=[], **(usual | settings))


def trainer(folder: Path, out: Path, *, arguments_: TrainingArguments | None = None, **settings) -> ReToolTrainer:
    usual = {"num_generations": 2, "max_turns": 2, "max_completion_length": 24, "temperature": 1.0, "overrides": ENV}
    return ReToolTrainer(
        model=settings.pop("model", str(folder)),
        args=arguments_ or arguments(out),
        train_dataset=settings.pop("train_dataset", ROWS),
        **(usual | settings),
    )


def test_arguments_become_the_configuration(tiny_folder: Path, tmp_path: Path) -> None:
    given = arguments(
        tmp_path / "run",
        learning_rate=3e-5,
        lr_scheduler_type="cosine",
        warmup_steps=3,
        adam_beta2=0.95,
        bf16=True,
        save_steps=7,
        save_total_limit=2,
        seed=5,
    )
    config = trainer(tiny_folder, tmp_path, arguments_=given, max_turns=3, mask_truncated_completions=False).config(
        resume=False
    )
    assert (config.optim.lr, config.optim.schedule, config.optim.warmup_steps) == (3e-5, "cosine", 3)
    assert config.optim.betas == (0.9, 0.95)
    assert (config.model.compute_dtype, config.save_every, config.keep_last, config.seed) == ("bfloat16", 7, 2, 5)
    assert (config.algo.prompts_per_step, config.algo.group_size, config.algo.steps) == (4, 2, 2)
    assert (config.env.max_tool_rounds, config.env.max_turn_tokens, config.algo.mask_overlong) == (3, 24, False)


def test_it_trains_as_the_command_does(tiny_folder: Path, tmp_path: Path) -> None:
    """A model and a tokenizer in memory, rows in memory; the model has the trained weights afterwards."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(tiny_folder))
    model = load_model(str(tiny_folder))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    # Random weights solve nothing: a reward that differs by luck makes them learn something.
    reward = tmp_path / "luck.py"
    reward.write_text(
        "def reward_func(completions, answer, **kwargs):\n"
        "    return [float(len(c[-1]['content']) % 5) for c in completions]\n"
    )
    mine = trainer(
        tiny_folder,
        tmp_path / "one",
        model=model,
        processing_class=tokenizer,
        eval_dataset=ROWS[:3],
        overrides=[*ENV, f"env.reward={reward}"],
        mask_truncated_completions=False,  # which is what random weights write
    )
    final = mine.train()
    saved = load_file(final / "model.safetensors")
    assert all(torch.equal(p, saved[name]) for name, p in model.named_parameters())
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    rows = read_metrics(tmp_path / "one" / "metrics.jsonl")
    assert [row["phase"] for row in rows].count("train") == 2
    again = mine.config(resume=False).model_copy(update={"out": str(tmp_path / "two")})
    train(again)
    other = load_file(tmp_path / "two" / "checkpoints" / "final" / "model.safetensors")
    assert all(torch.equal(saved[name], other[name]) for name in saved)
    assert mine.train(resume_from_checkpoint=True) == final, "a finished run is only evaluated again"


def test_the_best_model_is_the_one_that_is_left(tiny_folder: Path, tmp_path: Path) -> None:
    """Random weights solve nothing before and after, so no evaluation is better than the first."""
    reward = tmp_path / "luck.py"
    reward.write_text(
        "def reward_func(completions, answer, **kwargs):\n"
        "    return [float(len(c[-1]['content']) % 5) for c in completions]\n"
    )
    model = load_model(str(tiny_folder))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mine = trainer(
        tiny_folder,
        tmp_path,
        model=model,
        processing_class=PreTrainedTokenizerFast.from_pretrained(str(tiny_folder)),
        arguments_=arguments(
            tmp_path / "run", eval_strategy="steps", eval_steps=1, save_steps=1, load_best_model_at_end=True
        ),
        eval_dataset=ROWS[:3],
        overrides=[*ENV, f"env.reward={reward}", "eval.greedy=false"],
        mask_truncated_completions=False,
    )
    assert mine.train().name == "best"
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    final = load_file(tmp_path / "run" / "checkpoints" / "final" / "model.safetensors")
    assert any(not torch.equal(final[name], before[name]) for name in final), "and yet it was trained"
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["phase"] == "eval"] == [0, 1, 2]


def test_the_signature_is_the_documented_one() -> None:
    """As the Hugging Face implementation of the founding documents names and sets them."""
    given = inspect.signature(ReToolTrainer.__init__).parameters
    assert list(given)[1:5] == ["model", "processing_class", "args", "train_dataset"]
    documented = {
        "max_turns": 10,
        "temperature": 0.7,
        "max_completion_length": 1024,
        "mask_truncated_completions": True,
    }
    assert {name: given[name].default for name in documented} == documented


def test_epochs_are_counted_over_the_problems(tiny_folder: Path, tmp_path: Path) -> None:
    given = arguments(tmp_path / "run", max_steps=-1, num_train_epochs=1.5)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    trainer(tiny_folder, tmp_path, arguments_=given, train_dataset=path).train()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["phase"] == "train"] == [0, 1, 2], "1.5 passes over 8 problems, 4 a step"


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({"train_dataset": None}, {}, "train_dataset is not set"),
        ({"num_generations": 3}, {}, "8 samples per step are no whole groups of num_generations=3"),
        ({}, {"lr_scheduler_type": "polynomial"}, "args.lr_scheduler_type='polynomial' is not supported"),
        ({}, {"eval_strategy": "steps", "eval_steps": 1}, "needs eval_dataset"),
        ({}, {"label_smoothing_factor": 0.1}, "args.label_smoothing_factor=0.1 is not supported"),
        ({}, {"adam_epsilon": 1e-6}, "args.adam_epsilon=1e-06 is not supported"),
        ({}, {"optim": "adafactor"}, "args.optim='adafactor' is not supported"),
        ({}, {"auto_find_batch_size": True}, "args.auto_find_batch_size=True is not supported"),
        ({}, {"push_to_hub": True}, "args.push_to_hub=True is not supported"),
        ({}, {"metric_for_best_model": "f1"}, "args.metric_for_best_model='f1': the best model is that of the highest"),
        ({}, {"warmup_steps": 0.1, "max_steps": -1}, "args.warmup_steps=0.1 is a share of the steps; set max_steps"),
        ({"overrides": ["algo.stepz=3"]}, {}, "unknown config key 'algo.stepz'; did you mean 'algo.steps'"),
        ({"max_completion_length": 0}, {}, "env.max_turn_tokens=0"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path, settings: dict, given: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        trainer(tiny_folder, tmp_path, arguments_=arguments(tmp_path / "run", **given), **settings)
    assert not (tmp_path / "run").exists()


def test_a_model_in_memory_needs_its_tokenizer(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="processing_class is not set"):
        trainer(tiny_folder, tmp_path / "run", model=load_model(str(tiny_folder)))
