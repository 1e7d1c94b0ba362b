"""What the fake samples from: a checkpoint folder through transformers, or one fixed distribution."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retool_env.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer

Logits = NDArray[np.float32]


class Brain(Protocol):
    tokenizer: Tokenizer
    vocab_size: int
    context_length: int
    path: str

    def logits(self, contexts: Sequence[Sequence[int]]) -> Logits:
        """Of the next id of every context, ``[num_contexts, vocab_size]``."""
        ...

    def all_logits(self, ids: Sequence[int]) -> Logits:
        """Of the id behind every position, ``[num_ids, vocab_size]``."""
        ...

    def load(self, path: str) -> None: ...

    def assign(self, tensors: Sequence[tuple[str, object]]) -> None: ...

    def checksums(self) -> Mapping[str, str]: ...


class ModelBrain:
    """A checkpoint. The whole context is fed for every id: slow, and with no cache that could be stale."""

    def __init__(self, path: str) -> None:
        import torch

        torch.set_num_threads(1)
        self.load(path)
        self.tokenizer = FileTokenizer(path)

    def load(self, path: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if not (Path(path) / "config.json").is_file():
            raise FileNotFoundError(f"{path} holds no config.json")
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
        self.path = path
        self.vocab_size = self._model.config.vocab_size
        self.context_length = self._model.config.max_position_embeddings

    def logits(self, contexts: Sequence[Sequence[int]]) -> Logits:
        import torch

        width = max(map(len, contexts))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in contexts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in contexts])
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        with torch.inference_mode():
            output = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
        return output.logits[:, -1].numpy()

    def all_logits(self, ids: Sequence[int]) -> Logits:
        import torch

        with torch.inference_mode():
            return self._model(input_ids=torch.tensor([list(ids)])).logits[0].numpy()

    def assign(self, tensors: Sequence[tuple[str, object]]) -> None:
        import torch

        named = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors:
                named[name].copy_(tensor)

    def checksums(self) -> Mapping[str, str]:
        parameters = self._model.state_dict().items()
        return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in parameters}


class RandomBrain:
    """The same distribution after every context, over bytes; ``boosts`` makes some ids likelier than the others."""

    def __init__(self, boosts: Mapping[int, float], context_length: int) -> None:
        self.tokenizer = ByteTokenizer()
        self.vocab_size = self.tokenizer.vocab_size
        self.context_length = context_length
        self.path = "random"
        self._row = np.zeros(self.vocab_size, dtype=np.float32)
        for token, boost in boosts.items():
            self._row[token] = boost

    def logits(self, contexts: Sequence[Sequence[int]]) -> Logits:
        return np.broadcast_to(self._row, (len(contexts), self.vocab_size))

    def all_logits(self, ids: Sequence[int]) -> Logits:
        return self.logits([[0]] * len(ids))

    def load(self, path: str) -> None:
        self.path = path

    def assign(self, tensors: Sequence[tuple[str, object]]) -> None:
        raise ValueError("there are no tensors")

    def checksums(self) -> Mapping[str, str]:
        return {"row": hashlib.sha256(self._row.tobytes()).hexdigest()}
