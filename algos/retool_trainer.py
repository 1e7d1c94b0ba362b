"""Training from Python with the arguments of Hugging Face's trainer.

:class:`ReToolTrainer` is a way to write a configuration, and nothing else: ``train()`` runs what ``retool train`` runs,
in ``args.output_dir``, and leaves what that leaves. Model, tokenizer and problems are written there first, because a
run must be able to go on without the process that began it.

Of ``args`` it reads the fields below. Fields that only say how something is shown, loaded or started are passed over;
any other field that is set is refused, because it would be ignored::

    output_dir, seed                              the run folder, the seed
    per_device_train_batch_size,                  their product is the number of samples per step; with
      gradient_accumulation_steps                   num_generations samples per problem
    num_train_epochs or max_steps                 how long
    learning_rate, lr_scheduler_type, warmup_steps, warmup_ratio, weight_decay, adam_beta1, adam_beta2, max_grad_norm
    bf16, fp16, gradient_checkpointing            how
    eval_strategy="steps", eval_steps             needs eval_dataset; the start is always evaluated too
    save_strategy, save_steps, save_total_limit
    load_best_model_at_end                        by accuracy on eval_dataset

What it does not do: callbacks, collators, metrics functions and ``push_to_hub``. Several GPUs are ``torchrun`` as with
``retool train``; ``fsdp`` and ``deepspeed`` are refused, because the model is sharded here anyway.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from agents.loading import save_checkpoint
from algos.config import TrainConfig
from algos.policy.world import World
from retool_env.compose import compose
from retool_env.errors import UsageError, did_you_mean
from retool_env.files import atomic

__all__ = ["ReToolTrainer"]

SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
}
READ = {
    *("output_dir", "seed", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"),
    *("max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay"),
    *("adam_beta1", "adam_beta2", "max_grad_norm", "bf16", "fp16", "gradient_checkpointing", "eval_strategy"),
    *("eval_steps", "save_strategy", "save_steps", "save_total_limit", "load_best_model_at_end"),
    *("metric_for_best_model", "greater_is_better"),  # checked in _check
}
PASSED_OVER = {
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_dir", "logging_nan_inf_filter", "log_level"),
    *(
        "log_level_replica",
        "log_on_each_node",
        "include_num_input_tokens_seen",
        "disable_tqdm",
        "report_to",
        "run_name",
    ),
    *("project", "per_device_eval_batch_size", "eval_on_start", "eval_accumulation_steps", "prediction_loss_only"),
    *("do_train", "do_eval", "do_predict", "dataloader_num_workers", "dataloader_pin_memory", "remove_unused_columns"),
    *("dataloader_persistent_workers", "dataloader_prefetch_factor", "use_cpu", "local_rank", "use_cache", "optim"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_timeout"),
    *("skip_memory_metrics", "accelerator_config", "torch_empty_cache_steps", "gradient_checkpointing_kwargs"),
    *("average_tokens_across_devices", "full_determinism", "ignore_data_skip"),
}
INPUTS = "inputs"
Row = Mapping[str, Any]


class ReToolTrainer:
    """Teaches a causal language model to use the interpreter.

    Args:
        model: a transformers model, or a checkpoint folder.
        processing_class: its tokenizer; ``None`` with a folder, which has one.
        args: see the module.
        train_dataset: rows with ``prompt`` and ``answer``: a list, a ``datasets.Dataset``, or a file.
        eval_dataset: the same, for evaluation on the way and at the end.
        max_turns: rounds of tool calls of an episode.
        temperature: of sampling.
        max_completion_length: tokens of one turn.
        mask_truncated_completions: do not learn from episodes that a length limit cut.
        num_generations: samples per problem.
        overrides: any other setting of ``retool train``, as ``key=value``.

    Raises:
        UsageError: something that cannot work; nothing has been written then.
    """

    def __init__(
        self,
        model: PreTrainedModel | str | Path,
        processing_class: PreTrainedTokenizerBase | None = None,
        args: TrainingArguments | None = None,
        train_dataset: Iterable[Row] | str | Path | None = None,
        eval_dataset: Iterable[Row] | str | Path | None = None,
        *,
        max_turns: int = 10,
        temperature: float = 0.7,
        max_completion_length: int = 1024,
        mask_truncated_completions: bool = True,
        num_generations: int = 8,
        overrides: Sequence[str] = (),
    ) -> None:
        if train_dataset is None:
            raise UsageError("train_dataset is not set; give rows with 'prompt' and 'answer'")
        if isinstance(model, PreTrainedModel) and processing_class is None:
            raise UsageError("processing_class is not set; give the model's tokenizer")
        self.model, self.processing_class = model, processing_class
        self.args = args or TrainingArguments(output_dir="runs/retool")
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        _check(self.args, has_eval=eval_dataset is not None)
        self._inputs = Path(str(self.args.output_dir)) / INPUTS
        self._own = [
            f"env.max_tool_rounds={max_turns}",
            f"env.max_turn_tokens={max_completion_length}",
            f"rollout.sampling.temperature={temperature}",
            f"algo.mask_overlong={str(mask_truncated_completions).lower()}",
            f"algo.group_size={num_generations}",
            f"algo.prompts_per_step={_prompts_per_step(self.args, num_generations)}",
        ]
        self._overrides = list(overrides)
        self.config(resume=False)

    def config(self, *, resume: bool) -> TrainConfig:
        """The configuration of ``retool train`` that :meth:`train` runs.

        Raises:
            UsageError: a setting that does not exist or does not fit.
        """
        folder = self.model if isinstance(self.model, str | Path) else self._inputs / "model"
        data = [f"model.path={folder}", *self._problems("problems", self.train_dataset, "train")]
        if self.eval_dataset is not None:
            data += self._problems("eval.problems", self.eval_dataset, "eval")
        else:
            data += ["eval.every=0", *self._problems("eval.problems", self.train_dataset, "train"), "eval.greedy=false"]
        settings = [*_settings(self.args), *data, *self._own, f"resume={str(resume).lower()}", *self._overrides]
        return compose("train", TrainConfig, settings)

    def train(self, resume_from_checkpoint: bool = False) -> Path:
        """Run it; returns the folder of the checkpoint whose weights ``model`` then has: the last one, or with
        ``load_best_model_at_end`` the best.

        Args:
            resume_from_checkpoint: go on with the run in ``args.output_dir``.

        Raises:
            UsageError: what ``retool train`` refuses.
            InfrastructureError: see :func:`algos.train.train`.
        """
        from algos.train import train

        config = self.config(resume=resume_from_checkpoint)
        with contextlib.ExitStack() as stack:
            world = World.join(sequence_parallel=config.model.parallel.sequence)
            stack.callback(world.leave)
            if world.is_main and not resume_from_checkpoint:
                self._write_inputs()
            world.barrier()
            final = train(config)
        if self.args.load_best_model_at_end and (final.parent / "best").is_dir():
            final = final.parent / "best"
        if isinstance(self.model, PreTrainedModel):
            weights = {k: v for path in sorted(final.glob("*.safetensors")) for k, v in load_file(path).items()}
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(weights[name])
        return final

    def _problems(self, key: str, data: Iterable[Row] | str | Path, name: str) -> list[str]:
        path = data if isinstance(data, str | Path) else self._inputs / f"{name}.jsonl"
        return [f"{key}.name=file", f"{key}.path={path}", f"{key}.size=null"]

    def _write_inputs(self) -> None:
        self._inputs.mkdir(parents=True, exist_ok=True)
        for name, data in (("train", self.train_dataset), ("eval", self.eval_dataset)):
            if data is not None and not isinstance(data, str | Path):
                with atomic(self._inputs / f"{name}.jsonl") as temporary:
                    temporary.write_text("".join(json.dumps(dict(row)) + "\n" for row in data), encoding="utf-8")
        if isinstance(self.model, PreTrainedModel):
            save_checkpoint(self._inputs / "model", self.model, self._tokenizer_folder())

    def _tokenizer_folder(self) -> str:
        """Where the tokenizer's files are: those it was loaded from, or, for one made in memory, freshly saved ones.

        The files it was loaded from are better: saving may replace a tokenizer's rules by those usual for its type.
        """
        assert self.processing_class is not None, "checked when it was made"
        source = Path(self.processing_class.name_or_path)
        if (source / "tokenizer.json").is_file():
            return str(source)
        saved = self._inputs / "tokenizer"
        self.processing_class.save_pretrained(saved)
        return str(saved)


def _name(choice: Enum | str) -> str:
    """What transformers keeps as an enumeration, as it is written."""
    return str(choice.value) if isinstance(choice, Enum) else choice


def _check(args: TrainingArguments, *, has_eval: bool) -> None:
    """Refuse what would be ignored."""
    default = TrainingArguments(output_dir=args.output_dir)
    for name in sorted({field.name for field in fields(default)} - READ - PASSED_OVER):
        if getattr(args, name) != getattr(default, name):
            raise UsageError(f"args.{name}={getattr(args, name)!r} is not supported by ReToolTrainer; leave it out")
    if not _name(args.optim).startswith("adamw_torch"):
        raise UsageError(f"args.optim={_name(args.optim)!r} is not supported by ReToolTrainer: it is AdamW always")
    if _name(args.lr_scheduler_type) not in SCHEDULES:
        name = _name(args.lr_scheduler_type)
        raise UsageError(f"args.lr_scheduler_type={name!r} is not supported{did_you_mean(name, SCHEDULES)}")
    if _name(args.eval_strategy) != "no" and not has_eval:
        raise UsageError(f"args.eval_strategy={_name(args.eval_strategy)!r} needs eval_dataset")
    if _name(args.eval_strategy) == "epoch" or _name(args.save_strategy) == "epoch":
        raise UsageError("eval_strategy and save_strategy count steps here; set them to 'steps' or 'no'")
    metric = args.metric_for_best_model
    if metric not in (None, "loss", "accuracy", "eval/accuracy"):  # transformers fills in "loss" by itself
        raise UsageError(f"args.metric_for_best_model={metric!r}: the best model is that of the highest accuracy here")


def _prompts_per_step(args: TrainingArguments, num_generations: int) -> int:
    samples = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if samples % num_generations:
        raise UsageError(
            f"per_device_train_batch_size * gradient_accumulation_steps = {samples} samples per step are no whole "
            f"groups of num_generations={num_generations}; make it a multiple"
        )
    return samples // num_generations


def _settings(args: TrainingArguments) -> list[str]:
    steps = args.max_steps
    warmup = args.warmup_steps
    if isinstance(warmup, float) and 0 < warmup < 1:
        if steps <= 0:
            raise UsageError(f"args.warmup_steps={warmup} is a share of the steps; set max_steps, or a number of steps")
        warmup = math.ceil(warmup * steps)
    dtype = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    saves = _name(args.save_strategy) == "steps"
    return [
        f"out={args.output_dir}",
        f"seed={args.seed}",
        f"algo.steps={steps}" if steps > 0 else f"algo.num_epochs={args.num_train_epochs}",
        f"optim.lr={args.learning_rate}",
        f"optim.betas=[{args.adam_beta1},{args.adam_beta2}]",
        f"optim.weight_decay={args.weight_decay}",
        f"optim.max_grad_norm={args.max_grad_norm}",
        f"optim.schedule={SCHEDULES[_name(args.lr_scheduler_type)]}",
        "optim.lr_floor=0.0",
        f"optim.warmup_steps={int(warmup)}",
        f"model.compute_dtype={dtype}",
        f"model.gradient_checkpointing={str(args.gradient_checkpointing).lower()}",
        f"save_every={int(args.save_steps) if saves else 0}",
        f"keep_last={args.save_total_limit or 'null'}",
        f"keep_best={str(args.load_best_model_at_end or _name(args.save_strategy) == 'best').lower()}",
        f"eval.every={int(args.eval_steps or args.logging_steps) if _name(args.eval_strategy) == 'steps' else 0}",
    ]
