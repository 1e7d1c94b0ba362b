"""What a number was measured with: everything that can change a score, in readable parts, and one hash over them.

Two evaluations with one hash put the same problems in the same words, with the same tools and budgets, sampled in the
same way and graded by the same code; what differs is who answered. The hash stands in every result. A run that goes on
must have its identity unchanged, agent, seed and number of samples included; where a checkpoint or a data file lies, at
which address a server answers and how many episodes are in flight is no part of it.

A checkpoint is known by the names and sizes of its files and by pieces of their bytes, because reading all of a large
one takes minutes; a user's own Python (an agent, tools, a verifier) by its file. Our verifiers by their source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, JsonValue

import retool_env.verifier
from agents.config import AgentConfig, EvalConfig
from retool_env.config import EnvConfig
from retool_env.dialects import make_dialect
from retool_env.envs.toolbox import tool_specs
from retool_env.feeder import ProblemSource, fingerprint
from retool_env.modules import split_source
from retool_env.problems import Problem
from retool_env.tokenizer import load_tokenizer
from retool_env.tools import ToolSpec

__all__ = ["MEASURE", "Identity", "differences", "identify"]

Part = dict[str, JsonValue]
MEASURE: Final = ("problems", "dialect", "prompt", "tools", "budgets", "verifier", "sampling")
"""The parts that the hash is over: what was measured with, as opposed to who was measured."""

_PROBE = Problem(id="probe", prompt="What is 6 * 7?", answer="42")
_PIECES, _PIECE_BYTES = 16, 1 << 14
_WEIGHTS: Final = ("*.json", "*.jinja", "*.safetensors", "*.bin")


class Identity(BaseModel):
    """The parts of an identity.

    Attributes:
        problems: name, number, and digest of all that is asked.
        dialect: how calls are written.
        prompt: digests of what the policy reads before a question: as messages, and as ids.
        tools: their descriptions, and what limits their programs.
        budgets: of turns and tokens.
        verifier: its name, digests of its code and ours, and the library beneath it.
        sampling: how turns are sampled.
        agent: who answers.
        run: seed, samples of a problem, and the reward.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problems: Part
    dialect: Part
    prompt: Part
    tools: Part
    budgets: Part
    verifier: Part
    sampling: Part
    agent: Part
    run: Part

    @property
    def hash(self) -> str:
        """Over the parts in :data:`MEASURE`; 16 hexadecimal digits."""
        return _digest({name: part for name, part in self if name in MEASURE})


def identify(config: EvalConfig, env: EnvConfig, source: ProblemSource, *, model: str | None = None) -> Identity:
    """The identity of an evaluation.

    Args:
        env: the environment as it is played, with the agent's tokenizer.
        model: what the endpoint calls its model, where only the agent knows.
    """
    specs = tool_specs(env)
    return Identity(
        problems={"name": source.name, "size": source.size, "digest": fingerprint(source)},
        dialect={"name": env.dialect, "instructions": env.instructions, **_own_code(env.dialect)},
        prompt=_prompt(env, specs),
        tools=_tools(env, specs),
        budgets=vars(env.episode_limits).copy(),
        verifier=_verifier(env.verifier),
        sampling=config.sampling.model_dump(mode="json"),
        agent=_agent(config.agent, model),
        run={
            "seed": config.seed,
            "samples": config.samples,
            "reward": json.loads(env.model_dump_json(include={"reward", "tool_cost"})),
            **_own_code(*([env.reward] if isinstance(env.reward, str) else env.reward)),
        },
    )


def differences(
    one: Identity,
    two: Identity,
    parts: Sequence[str] = tuple(Identity.model_fields),
    *,
    form: str = "{key}: {one}, now {two}",
) -> list[str]:
    """What differs, as ``budgets.max_tool_rounds: 8, now 4``.

    Args:
        parts: to look at.
        form: of the text.
    """
    found = []
    for name in parts:
        left, right = _flat(getattr(one, name)), _flat(getattr(two, name))
        for key in dict.fromkeys([*left, *right]):
            if left.get(key) != right.get(key):
                values = {"one": _shown(left.get(key)), "two": _shown(right.get(key))}
                found.append(form.format(key=f"{name}.{key}", **values))
    return found


def _prompt(env: EnvConfig, specs: Sequence[ToolSpec]) -> Part:
    dialect, tokenizer = make_dialect(env.dialect, instructions=env.instructions), load_tokenizer(env.tokenizer)
    messages = dialect.build_prompt(_PROBE, specs)
    ids = tokenizer.encode_chat(messages, specs if dialect.chat_tools else ())
    return {"messages": _digest([message.model_dump() for message in messages]), "ids": _digest(ids)}


def _tools(env: EnvConfig, specs: Sequence[ToolSpec]) -> Part:
    settings = env.model_dump(mode="json", include={"stateful", "interpreter_mode", "traceback"})
    limits = env.model_dump(mode="json", include={"cpu_seconds", "wall_seconds", "memory_mb"})
    sandbox = env.sandbox.partition(":")[0]
    named = {"names": [spec.name for spec in specs], "digest": _digest([spec.openai() for spec in specs])}
    return {**named, "sandbox": sandbox, **settings, **limits, **_own_code(*env.tools)}


def _verifier(name: str) -> Part:
    """Our code in any case: a user's verifier is free to call it."""
    folder = Path(str(retool_env.verifier.__file__)).parent
    sources = [[path.name, path.read_text(encoding="utf-8")] for path in sorted(folder.glob("*.py"))]
    return {"name": name, "code": _digest(sources), "math_verify": version("math-verify"), **_own_code(name)}


def _agent(config: AgentConfig, model: str | None) -> Part:
    kind = {"name": config.name, "model": model or config.model, "options": config.options}
    weights = {"weights": _folder_digest(Path(config.path))} if config.path else {}
    return {**kind, **weights, **_own_code(config.name)}


def _own_code(*names: str) -> Part:
    """Digests of the user's own Python files that ``names`` stand for."""
    files = [Path(location) for name in names if (location := split_source(name)[0]).endswith(".py")]
    return {path.name: hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() for path in files}


def _folder_digest(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)}):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        for piece in _pieces(path):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    """The whole of a small file, evenly spaced pieces of a large one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE_BYTES:
            yield file.read()
            return
        for number in range(_PIECES):
            file.seek(number * (size - _PIECE_BYTES) // (_PIECES - 1))
            yield file.read(_PIECE_BYTES)


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _flat(value: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    rows: dict[str, JsonValue] = {}
    for key, inner in value.items():
        rows |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return rows


def _shown(value: JsonValue) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
