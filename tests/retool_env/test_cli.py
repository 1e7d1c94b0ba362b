"""The command line: help, mistakes in one line with exit code 2, and start-up without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents.config import EvalConfig
from retool_env.cli import ALIASES, COMMANDS, OTHER_KEYS, _overrides, main


def retool(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retool_env.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def row(question: object = "What is 1 + 1?", answer: object = "It is 2.\n#### 2", **more: object) -> str:
    return json.dumps({"question": question, "answer": answer, **more}) + "\n"


ORACLE = ["eval", "agent=oracle"]
GSM8K = [*ORACLE, "problems=gsm8k"]

MISTAKES = [
    (["demoo"], "unknown command 'demoo'; did you mean 'demo'?"),
    (["eval", "--modell", "x"], "unknown flag '--modell'"),
    (["eval", "--agent"], "--agent needs a value"),
    (["eval", "--suite"], "--suite needs a file"),
    (["eval", "--suite", "no.yaml"], "suite 'no.yaml' cannot be read"),
    (["eval", "aime_2034"], "DATASET 'aime_2034' is unknown; did you mean 'aime_2024'?"),
    (["eval", "no/such.jsonl"], "DATASET 'no/such.jsonl': no such file"),
    (["eval", "gsm8k", "aime_2024"], "'aime_2024': a second DATASET is not understood"),
    (["train", "aime_2024"], "'aime_2024': an argument is not understood; settings are written key=value"),
    (["eval", "ks=[2]"], "ks: k=2 needs as many samples of a problem, and samples=1"),
    (["eval", "agent.nam=oracle"], "unknown config key 'agent.nam'; did you mean 'agent.name'?"),
    (["eval", "samples=many"], "samples='many': input should be a valid integer"),
    (["eval", "samples=0"], "samples=0: input should be greater than 0"),
    (["eval", "experiment=tiny_grpoo"], "experiment='tiny_grpoo' is unknown; did you mean 'tiny_grpo'?"),
    (["eval", "agent=orakel", "problems.size=1"], "agent='orakel' is unknown; did you mean 'oracle'?"),
    (ORACLE, "problems='arithmetic' never ends; set problems.size"),
    (["eval", "problems.size=1"], "agent.path is not set; give the checkpoint folder, or agent=oracle"),
    (GSM8K, "problems.path is not set"),
    ([*GSM8K, "problems.path=no.jsonl"], "problems.path='no.jsonl': no such file"),
    ([*GSM8K, "problems.path=column.jsonl"], "column.jsonl:2: no text column 'question'; it has 'prompt', 'answer'"),
    ([*GSM8K, "problems.path=gold.jsonl"], "gold.jsonl:1: the gold answer after '####' is empty"),
    ([*GSM8K, "problems.path=text.jsonl"], "text.jsonl:1: not JSON"),
    ([*GSM8K, "problems.path=plain.jsonl"], "plain.jsonl:1: the answer has no '####' in front of the gold"),
    ([*ORACLE, "problems.size=1", "env.reward=acuracy"], "env.reward='acuracy': no reward part 'acuracy'"),
    ([*ORACLE, "problems.size=1", "out=good.jsonl"], "out='good.jsonl' cannot be made a run folder (File exists)"),
    ([*ORACLE, "-m", "seed=0,1", "out=runs/x,runs/y"], "out with -m is one folder, that of the sweep"),
    ([*ORACLE, "-m", "seed=0,1", "smples=3"], "unknown config key 'smples'; did you mean 'samples'?"),
    ([*ORACLE, "-m", "dialect=retool,hermess"], "dialect='hermess' is unknown; did you mean 'hermes'?"),
    (
        ["train", "rollout.sampling.top_p=0.9", "rollout.staleness=1"],
        "with top_p < 1 or top_k > 0 the samples have to come from the weights",
    ),
    (["train", "algo.group_size=1"], "group_size=1: advantage='grpo' compares the samples of one problem"),
    (["sft", "traces.phases=[]"], "traces.phases=[]: tuple should have at least 1 item"),
    (["demo", "sft.eval.greedy=false"], "sft.eval.greedy=false: the demo's table shows both modes"),
    (
        [*ORACLE, "problems.size=1", "env.sandbox=fusion:http://127.0.0.1:9"],
        "env.sandbox='fusion:http://127.0.0.1:9' runs no program: [Errno 111] Connection refused",
    ),
    ([*GSM8K, "problems.path=list.jsonl"], "list.jsonl:1: a list; expected an object"),
    ([*GSM8K, "problems.path=empty.jsonl"], "empty.jsonl: holds no problem"),
    ([*GSM8K, "problems.path=good.jsonl", "env.max_context_tokens=50"], "problem 'gsm8k/0': its prompt has"),
    (
        [*ORACLE, "problems.size=2", "problems.families={ad: 1}"],
        "problems.families: 'ad' is unknown; did you mean 'add'?",
    ),
    (["train", "rollout.collector=plain", "rollout.staleness=1"], "staleness=1 needs collector=torchrl"),
    (["train", "eval.problems.size=null"], "problems.size must be set: a procedural source never ends"),
    (["train"], "model.path is not set; give the checkpoint to start from"),
    (["sft", "out=runs/x"], "env.max_context_tokens=16384: the tiny model has 1024 positions"),
    ([*ORACLE, "problems.size=5000", "problems.families={add: 1}"], "problems.size=5000: 'add' has no more different"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "good.jsonl").write_text(row())
    (tmp_path / "column.jsonl").write_text(row() + json.dumps({"prompt": "?", "answer": "#### 1"}) + "\n")
    (tmp_path / "gold.jsonl").write_text(row(answer="I do not know #### "))
    (tmp_path / "plain.jsonl").write_text(row(answer="It is 2."))
    (tmp_path / "text.jsonl").write_text("What is 1 + 1?\n")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("retool: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs" / "eval" / "trajectories.jsonl").exists()
    assert not (tmp_path / "runs" / "x").exists()


def test_a_mistake_leaves_no_traceback_in_a_real_process(tmp_path: Path) -> None:
    done = retool("train", "experiment=tiny_grpo", "threads=1", "model.path=nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "retool: 'nowhere' is no checkpoint: no config.json there; give a Hugging Face model folder\n"
    assert done.stdout == ""


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_names_every_setting_and_imports_no_torch(command: str) -> None:
    code = (
        "import sys; from retool_env.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout
    settings = [line for line in done.stdout.splitlines() if line.startswith("  ") and " = " in line]
    assert len(settings) >= 10


def test_help_of_train_explains_and_shows_defaults() -> None:
    done = retool("train", "--help")
    assert "  algo.mask_tool_tokens = true\n      off: train on the interpreter's tokens too" in done.stdout
    for line in ("env.max_tool_rounds = 8", "seed = 0", "algo.epochs = 1", "deterministic = true"):
        assert f"  {line}\n" in done.stdout
    assert "eval.problems.split = heldout" in done.stdout


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, retool_env; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_aliases_are_keys_of_some_command() -> None:
    from retool_env.cli import _load
    from retool_env.compose import _keys

    known = {key for command in COMMANDS.values() for key in _keys(_load(command.config), "")}
    assert {key.partition("=")[0] for key in ALIASES.values()} | set(OTHER_KEYS.values()) <= known


def test_the_recipe_guides_evaluation() -> None:
    """30 problems x 32 samples, 8 turns, temperature 0.7, 64 in flight; and every flag of it."""
    flags = "--agent openai --base-url http://h:1/v1 --api-key sk-a'b{c --sandbox-url http://box:8080 --out x y"
    words = [*flags.split()[:-2], "x y"]
    config = composed("aime_2024", *words)
    assert (config.problems.name, config.samples, config.num_slots) == ("aime_2024", 32, 64)
    assert (config.sampling.temperature, config.env.max_tool_rounds) == (0.7, 8)
    assert (config.agent.name, config.agent.url, config.out) == ("openai", "http://h:1/v1", "x y")
    assert config.agent.api_key is not None and config.agent.api_key.get_secret_value() == "sk-a'b{c"
    assert config.env.sandbox == "fusion:http://box:8080"
    settings = "--samples 4 --max-turns=3 --temperature 0 --concurrency 2 --max_samples 5 --seed 7 --model m"
    config = composed(*settings.split(), "math_500")  # wherever the recipe stands, what is written counts
    assert (config.samples, config.env.max_tool_rounds, config.sampling.temperature) == (4, 3, 0.0)
    assert (config.num_slots, config.problems.size, config.seed, config.agent.model) == (2, 5, 7, "m")


def composed(*words: str) -> EvalConfig:
    from retool_env.compose import compose

    return compose("eval", EvalConfig, _overrides(list(words), COMMANDS["eval"]))


def test_data_sets_are_recipes_files_and_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my file.jsonl").write_text(row())
    monkeypatch.chdir(tmp_path)
    shares = {name: composed(name).samples for name in ("aime_2024", "aime_2025", "math_500", "gsm8k", "arithmetic")}
    assert shares == {"aime_2024": 32, "aime_2025": 32, "math_500": 4, "gsm8k": 1, "arithmetic": 1}
    config = composed("my file.jsonl")
    assert (config.problems.name, config.problems.path, config.samples) == ("file", "my file.jsonl", 32)
    assert composed("hf:owner/name", "problems.split=test").problems.path == "hf:owner/name"
    assert composed("dapo", "problems.path=x.parquet").problems.name == "dapo"
    assert composed("arithmetic", "experiment=tiny_eval").env.max_tool_rounds == 3  # the recipe that was asked for


def test_help_of_eval_says_what_flags_mean() -> None:
    shown = retool("eval", "--help").stdout
    assert "usage: retool eval [DATASET] [--suite FILE] [key=value ...]" in shown
    assert "  --samples VALUE  is  samples=VALUE\n      per problem.\n" in shown
    assert "  --max-turns VALUE  is  env.max_tool_rounds=VALUE\n      rounds of calls that are run;" in shown
    assert "  --sandbox-url VALUE  is  env.sandbox=fusion:VALUE\n" in shown
    assert (
        "--model-path" not in shown and "--model-path VALUE  is  model.path=VALUE" in retool("train", "--help").stdout
    )


def test_flags_of_the_guides(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--agent", "oracle", "--max_samples=5", f"--output_dir={out}", "problems.split=heldout"]
    assert main(["eval", *arguments]) == 0
    assert len((out / "trajectories.jsonl").read_text().splitlines()) == 5


def test_a_quick_try_is_short_everywhere() -> None:
    from retool_env.cli import _overrides as overrides

    def _overrides(arguments: list[str], command: str) -> list[str]:
        return overrides(arguments, COMMANDS[command])

    assert _overrides(["--max_samples", "10"], "eval") == ["problems.size=10"]
    assert _overrides(["--max_samples", "10"], "sft") == ["traces.num=10", "eval.problems.size=10"]
    everything = ["problems.size=10", "eval.problems.size=10", "algo.num_epochs=1"]
    assert _overrides(["--max_samples=10"], "train") == everything
    for said in ("algo.steps=3", "algo.num_epochs=2"):
        assert _overrides(["--max_samples=10", said], "train") == [*everything[:2], said]
    assert _overrides(["--max_samples=10", "eval.problems.size=4"], "train")[1:] == [
        "algo.num_epochs=1",
        "eval.problems.size=4",
    ]
    assert _overrides(["trainer.dry_run=true", "dry_run=false"], "train") == ["dry_run=true", "dry_run=false"]
