"""TorchRL's own wrapper takes our environments, in both views."""

from __future__ import annotations

import gymnasium
import torch
from tensordict import NonTensorData
from torchrl.data import NonTensor, Unbounded
from torchrl.envs import GymWrapper

import algos.specs
import retool_env  # noqa: F401  registers the ids
from retool_env.tokenizer import ByteTokenizer

assert algos.specs


def test_token_view() -> None:
    env = GymWrapper(gymnasium.make("retool/MathTool-v0"))
    assert isinstance(env.action_spec, Unbounded)
    assert env.action_spec.dtype is torch.int64
    data = env.reset()
    prompt = data["token_ids"]
    assert prompt.dtype is torch.int64
    call = torch.tensor(ByteTokenizer().encode("<code>print(41 + 1)</code>"))
    data["action"] = call
    after = env.step(data)["next", "token_ids"]
    assert torch.equal(after[: len(prompt) + len(call)], torch.cat([prompt, call]))
    assert "42" in ByteTokenizer().decode(after[len(prompt) + len(call) :].tolist())
    env.close()


def test_text_view() -> None:
    env = GymWrapper(gymnasium.make("retool/MathToolText-v0"))
    assert isinstance(env.action_spec, NonTensor)
    data = env.reset()
    assert isinstance(data["observation"], str)
    data["action"] = NonTensorData("<code>print(41 + 1)</code>")
    assert "42" in env.step(data)["next", "observation"]
    env.close()
