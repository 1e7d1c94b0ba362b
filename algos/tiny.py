r"""The demo's model and tokenizer, made from nothing: a Qwen2 of 0.7 million parameters that fits two CPU cores.

**Tokenizer.** Word pieces of the arithmetic world over a byte-level alphabet, so every text round-trips. Numbers are
cut into groups of up to three digits and each group is one token: copying a number is then one attention look-up.
With single digits the same model did not learn to copy within a hundred times the tokens. Where the dialect takes the
tools from a chat template, the folder has one: ChatML, with the tools' names and not their schemas, which would be
longer than all the rest of a tiny context. Such a model knows its tools by heart.

**Model.** Qwen2 architecture, random weights, tied embeddings, RoPE base 500 (contexts are short). Both are saved in
Hugging Face format. Load the tokenizer with ``PreTrainedTokenizerFast.from_pretrained(folder)``: transformers'
``AutoTokenizer`` (5.12) takes the rules of the original Qwen2 for every model of that type, whatever the folder says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from algos.config import TinyModelConfig
from retool_env.dialects import Dialect, make_dialect
from retool_env.sources.arithmetic import ArithmeticSource
from retool_env.sources.traces import TracePhase, arithmetic_traces

__all__ = ["build_model", "build_tokenizer", "make_tiny"]

SPECIALS = ("<pad>", "<eos>", "<code>", "</code>", "<interpreter>", "</interpreter>", "<answer>", "</answer>")
CHAT_SPECIALS = (
    "<pad>",
    "<|im_end|>",
    "<|im_start|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
CHAT_TEMPLATE = """\
{%- if tools -%}
{{ '<|im_start|>system\\nTools:' }}
{%- for tool in tools -%}{{ ' ' + tool.function.name }}{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{ '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' else '' }}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' else '' }}
{%- else -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt else '' }}"""
MAX_WORDS = 4096
"""Of the texts that are given: words beyond the most frequent ones are spelled."""
PIECE = r"```python\n|\n```\n| ?[A-Za-z]+|\d{1,3}|\\boxed|\*\*| ?[^\sA-Za-z\d]|\s"
ERROR_WORDS = (
    "Traceback (most recent call last): File line in module Error SyntaxError TypeError ValueError invalid syntax"
)


def _corpus(dialect: Dialect) -> Iterator[str]:
    """All words and symbols that problems and traces can hold; numbers are enumerated, not collected."""
    source = ArithmeticSource(seed=0)
    yield from (source.problem(index).question for index in range(500))
    phase = TracePhase(share=1, tool_easy=0.4, tool_hard=0.4)
    for trace in arithmetic_traces(500, seed=0, phases=[phase], dialect=dialect):
        for turn in trace.turns:
            yield turn.text
            yield from turn.outputs
    yield ERROR_WORDS
    if dialect.chat_tools:
        yield "system\nTools\nuser\nassistant"


def build_tokenizer(dialect: Dialect | None = None, texts: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """The tokenizer; the same on every machine.

    Args:
        dialect: which control tokens there are, and whether there is a chat template; ``None`` for ``retool``.
        texts: what it is to read beside the arithmetic world.
    """
    dialect = dialect or make_dialect("retool")
    specials = CHAT_SPECIALS if dialect.chat_tools else SPECIALS
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    hide = re.compile("|".join(map(re.escape, specials)))
    known, more = (
        Counter(piece for text in source for piece in re.findall(PIECE, hide.sub("", text)) if not piece.isdigit())
        for source in (_corpus(dialect), texts)
    )
    words = {*known, *(word for word, _ in more.most_common(MAX_WORDS))}
    numbers = (f"{i:0{width}d}" for width in (1, 2, 3) for i in range(10**width))
    spelled = [to_bytes.pre_tokenize_str(word)[0][0] for word in sorted(words)]
    vocab: dict[str, int] = {}
    for piece in (*specials, *alphabet, *numbers, *spelled):
        vocab.setdefault(piece, len(vocab))
    # Greedy longest match over a vocabulary that holds every byte: no text is ever unknown.
    model = models.WordPiece(vocab, unk_token="<pad>", continuing_subword_prefix="", max_input_chars_per_word=10**6)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PIECE), "isolated"), to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    chat = {"chat_template": CHAT_TEMPLATE} if dialect.chat_tools else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=specials[1], pad_token=specials[0], **chat)


def build_model(shape: TinyModelConfig, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen2ForCausalLM:
    """Random float32 weights; the same for the same seed."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        attention_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(config)


def make_tiny(
    folder: Path, shape: TinyModelConfig, *, seed: int, dialect: Dialect | None = None, texts: Iterable[str] = ()
) -> None:
    """Write model and tokenizer to ``folder`` in Hugging Face format.

    Args:
        dialect: in which the model is to write calls; ``None`` for ``retool``.
        texts: what it is to read beside the arithmetic world.
    """
    tokenizer = build_tokenizer(dialect, texts)
    build_model(shape, tokenizer, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
