"""``retool eval``: the oracle on GSM8K, the run folder, resuming, failures, and what the list of misses says."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from agents.base import Generation, Request
from agents.config import EvalConfig
from agents.evaluation.evaluate import evaluate_agent
from agents.evaluation.folder import read_run
from agents.evaluation.misses import miss_cause
from agents.evaluation.played import Played
from agents.evaluation.summary import EvalSummary, read_summary
from agents.evaluation.text import markdown
from agents.run_folder import RunFolder, read_metrics, stored_config
from algos.config import TrainConfig
from retool_env.compose import compose
from retool_env.errors import InfrastructureError, UsageError
from retool_env.trajectory import read_trajectories
from tests.agents.chat_server import chat_server

SUMS = ["problems.split=heldout", "problems.families={add: 1}"]


def config(tmp_path: Path, *overrides: str) -> EvalConfig:
    return compose("eval", EvalConfig, [f"out={tmp_path / 'run'}", "agent=oracle", *overrides])


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_oracle_on_all_of_gsm8k(tmp_path: Path, gsm8k_test: Path) -> None:
    (total,) = evaluate_agent(config(tmp_path, "problems=gsm8k", f"problems.path={gsm8k_test}"))
    assert total.accuracy.num == 1319
    assert 0.905 <= total.accuracy.mean <= 0.925
    causes = [miss_cause(t) for t in read_trajectories(tmp_path / "run" / "trajectories.jsonl")]
    missed = {cause for cause in causes if cause}
    # 18 rows have no annotation; in all others the annotated program itself ends in another value.
    assert missed == {"no answer: no_answer", "program or answer: wrong value"}
    assert causes.count("no answer: no_answer") == 18


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    settings = config(tmp_path, "problems.split=heldout", "problems.size=20", "num_slots=4")
    evaluate_agent(settings)
    path = tmp_path / "run" / "trajectories.jsonl"
    whole = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(whole[:7]) + whole[7][:100], encoding="utf-8")  # torn by a kill
    summaries = evaluate_agent(settings)
    tickets = [t.ticket for t in read_trajectories(path)]
    assert sorted(tickets) == list(range(20))
    assert tickets[:7] == [json.loads(line)["ticket"] for line in whole[:7]]
    assert summaries[0].accuracy.mean == 1.0
    assert [launch.num_before for launch in read_run(tmp_path / "run").launches] == [0, 7]


def test_what_a_run_folder_says(tmp_path: Path) -> None:
    evaluate_agent(config(tmp_path, *SUMS, "problems.size=8", "samples=4", "sampling.temperature=0.7"))
    folder = tmp_path / "run"
    run = json.loads((folder / "run.json").read_text())
    assert run["identity"]["budgets"]["max_tool_rounds"] == 8
    assert run["identity"]["sampling"]["temperature"] == 0.7
    assert run["identity"]["run"] == {"seed": 0, "samples": 4, "reward": {"reward": "pm1", "tool_cost": 0.5}}
    assert (run["num_episodes"], run["launches"][0]["num_before"]) == (32, 0)
    assert run["launches"][0]["ended"] is not None and "python" in run["launches"][0]["versions"]
    found = summary(folder)
    assert found["hash"] == run["hash"] and found["complete"] and found["num_failed"] == 0
    metrics = found["metrics"]
    assert metrics["val-core/arithmetic/acc/mean@4"] == metrics["val-core/arithmetic/acc/best@4/mean"] == 1.0
    assert metrics["val-core/arithmetic/acc/maj@4/mean"] == metrics["val-aux/arithmetic/acc/worst@2/mean"] == 1.0
    assert metrics["val-aux/num_turns/mean"] == 4.0
    numbers = found["statistics"]
    assert set(numbers["cross_checks"]) == {"t", "bootstrap", "normal"}
    assert [row["k"] for row in numbers["at_k"]] == [1, 2, 4]
    assert numbers["tokens_per_solved"] > 0 and numbers["calls"] == {"ok": 1.0}
    assert "seconds" not in numbers and found["time"]["overall"]["seconds_per_solved"] > 0
    text = (folder / "summary.md").read_text()
    assert text.startswith("## arithmetic: mean@4 100.0 [67.6, 100.0] %\n")
    assert "| 4   | 100.0 [67.6, 100.0] |" in text
    assert (folder / "failures.jsonl").read_text() == ""
    assert stored_config(folder) == run["config"]


def test_the_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    evaluate_agent(config(tmp_path, "problems.split=heldout", "problems.size=10", "samples=2"))
    folder = tmp_path / "run"
    stored = read_summary(folder)
    (folder / "summary.json").unlink()
    again = read_summary(folder)
    assert stored.overall is not None and again.overall is not None
    assert stored.to_json() == again.to_json() and markdown(stored) == markdown(again)
    assert stored.overall.at_k == again.overall.at_k and stored.families.keys() == again.families.keys()
    (folder / "summary.json").write_text("{}")
    with pytest.raises(UsageError, match="not the numbers of an evaluation"):
        read_summary(folder)


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    evaluate_agent(config(tmp_path, *SUMS, "problems.size=5"))
    before = (tmp_path / "run" / "run.json").read_bytes()
    changes = ["seed=1", "env.max_tool_rounds=4", "env.instructions=false", "sampling.temperature=0"]
    with pytest.raises(UsageError) as refusal:
        evaluate_agent(config(tmp_path, *SUMS, "problems.size=6", *changes))
    told = str(refusal.value)
    for difference in (
        "problems.size: 5, now 6",
        "problems.digest:",
        "dialect.instructions: true, now false",
        "prompt.messages:",
        "budgets.max_tool_rounds: 8, now 4",
        "sampling.temperature: 1.0, now 0.0",
        "run.seed: 0, now 1",
    ):
        assert difference in told
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    # How many are in flight, and where programs run, decides no number.
    evaluate_agent(config(tmp_path, *SUMS, "problems.size=5", "num_slots=2", "threads=1"))


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", TrainConfig())
    with pytest.raises(UsageError, match="is no evaluation of this version"):
        evaluate_agent(config(tmp_path, *SUMS, "problems.size=5"))
    evaluate_agent(compose("eval", EvalConfig, [f"out={tmp_path / 'eval'}", "agent=oracle", *SUMS, "problems.size=2"]))
    with pytest.raises(UsageError, match="holds an evaluation"):
        RunFolder(tmp_path / "eval", TrainConfig(), resume=True)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", TrainConfig())
    with pytest.raises(UsageError, match="holds a run already; give another out"):
        RunFolder(tmp_path / "run", TrainConfig())


def test_metrics_round_trip_without_a_torn_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", TrainConfig())
    run.log("train", 0, {"loss": 1.5, "gap": float("nan")})
    run.log("train", 1, {"loss": 1.25})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "tra')
    rows = read_metrics(run.path / "metrics.jsonl")
    assert rows == [
        {"phase": "train", "step": 0, "loss": 1.5, "gap": None},
        {"phase": "train", "step": 1, "loss": 1.25},
    ]
    run.keep_metrics(lambda phase, step: step < 1)
    assert read_metrics(run.path / "metrics.jsonl") == rows[:1]


FLAKY = '''
"""An agent that fails in every third episode, until a file says that it is well."""
import threading
from pathlib import Path

import numpy as np

from agents.writing import write_turn
from retool_env.errors import EngineError


class Flaky:
    def __init__(self, setup, *, well, every=3):
        self.tokenizer, self.well, self.every = setup.tokenizer, Path(well), every

    def act(self, request):
        if request.session % self.every == 0 and not self.well.exists():
            raise EngineError(f"no luck with {request.session}")
        return write_turn("\\\\boxed{1}", request, self.tokenizer)
'''


def flaky(tmp_path: Path, *overrides: str) -> EvalConfig:
    (tmp_path / "flaky.py").write_text(FLAKY)
    agent = [f"agent.name={tmp_path / 'flaky.py'}:Flaky", f"agent.options={{well: {tmp_path / 'well'}}}"]
    return config(tmp_path, *agent, *SUMS, "problems.size=9", "max_failed_share=0.9", *overrides)


def test_failures_have_a_file_of_their_own_and_are_never_scored(tmp_path: Path) -> None:
    settings, folder = flaky(tmp_path), tmp_path / "run"
    total = evaluate_agent(settings)[0]
    assert total.accuracy.num == 6
    assert sorted(row["ticket"] for row in lines(folder / "trajectories.jsonl")) == [1, 2, 4, 5, 7, 8]
    failures = lines(folder / "failures.jsonl")
    assert Counter((row["ticket"], row["attempt"]) for row in failures) == Counter(
        (ticket, attempt) for ticket in (0, 3, 6) for attempt in (1, 2)
    )
    assert {row["outcome"] for row in failures} == {"engine_outage"}
    assert {row["failure"] for row in failures} == {"no luck with 0", "no luck with 3", "no luck with 6"}
    found = summary(folder)
    assert not found["complete"]
    assert (found["num_played"], found["num_failed"], found["num_failures"]) == (6, 3, 6)
    assert found["statistics"]["failures"] == {"engine_outage": 3}
    assert len(found["statistics"]["unscored_problems"]) == 3
    text = (folder / "summary.md").read_text()
    assert "3 episodes were ended by infrastructure and are not scored (engine_outage 3)" in text
    assert text.count("infrastructure: engine_outage 3") == 1
    assert [t.ticket for t in read_trajectories(folder / "failures.jsonl")] == [row["ticket"] for row in failures]

    (tmp_path / "well").touch()
    assert evaluate_agent(settings)[0].accuracy.num == 9
    assert sorted(row["ticket"] for row in lines(folder / "trajectories.jsonl")) == list(range(9))
    assert lines(folder / "failures.jsonl") == failures
    found = summary(folder)
    assert (found["complete"], found["num_failed"], found["num_failures"]) == (True, 0, 6)


def test_too_many_failures_stop_the_run_and_what_was_finished_is_kept(tmp_path: Path) -> None:
    settings = flaky(tmp_path, "problems.size=60", "max_failed_share=0.2", "num_slots=1")
    with pytest.raises(InfrastructureError, match=r"engine_outage: no luck with \d+\), more than max_failed_share=0.2"):
        evaluate_agent(settings)
    found = summary(tmp_path / "run")
    assert 0 < found["num_played"] < 60 and found["num_failed"] > 0
    (tmp_path / "well").touch()
    assert evaluate_agent(settings)[0].accuracy.num == 60


def test_few_that_failed_are_no_success_either(tmp_path: Path) -> None:
    """While it goes on nothing can be said of so few; at its end all is said."""
    settings = flaky(tmp_path, "max_failed_share=0.3")
    told = r"3 of 9 episodes failed \(engine_outage: no luck with \d\), more than max_failed_share=0.3"
    with pytest.raises(InfrastructureError, match=told):
        evaluate_agent(settings)
    found = summary(tmp_path / "run")
    assert (found["num_played"], found["num_failed"], found["num_failures"]) == (6, 3, 6)
    assert evaluate_agent(settings.model_copy(update={"max_failed_share": 0.4}))[0].accuracy.num == 6


def test_an_agent_whose_code_has_changed_is_another_one(tmp_path: Path) -> None:
    settings = flaky(tmp_path)
    evaluate_agent(settings)
    (tmp_path / "flaky.py").write_text(FLAKY + "\n# better\n")
    with pytest.raises(UsageError, match=r"agent\.flaky\.py: "):
        evaluate_agent(settings)


def test_a_finished_run_is_told_again_without_its_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server() as server:
        overrides = ["agent=openai", f"agent.url={server.url}", "agent.model=m", *SUMS, "problems.size=3"]
        evaluate_agent(config(tmp_path, *overrides))
        num_asked = len(server.bodies)
    first = capsys.readouterr().out
    assert evaluate_agent(config(tmp_path, *overrides))[0].accuracy.num == 3  # nothing answers there any more
    again = capsys.readouterr().out
    assert num_asked > 0 and "holds all episodes of the model 'm' already; nobody was asked" in again
    assert first.split("## ")[1] == again.split("## ")[1]
    unnamed = [override for override in overrides if override != "agent.model=m"]
    evaluate_agent(config(tmp_path, *unnamed))  # it cannot be known what the endpoint has by now
    assert "of the model 'm' already; nobody was asked" in capsys.readouterr().out
    assert len(read_run(tmp_path / "run").launches) == 1


def test_another_model_is_no_finished_run(tmp_path: Path) -> None:
    with chat_server() as server:
        overrides = ["agent=openai", f"agent.url={server.url}", *SUMS, "problems.size=3"]
        evaluate_agent(config(tmp_path, *overrides, "agent.model=m"))
        with pytest.raises(UsageError, match=r'agent.model: "m", now "n"'):
            evaluate_agent(config(tmp_path, *overrides, "agent.model=n"))


def test_a_process_at_a_time(tmp_path: Path) -> None:
    evaluate_agent(config(tmp_path, *SUMS, "problems.size=4", "samples=2"))
    path = tmp_path / "run" / "trajectories.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    context = multiprocessing.get_context("spawn")
    ready, enough = context.Event(), context.Event()
    holder = context.Process(target=hold_lock, args=(tmp_path / "run", ready, enough))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UsageError, match="another process is writing there"):
            evaluate_agent(config(tmp_path, *SUMS, "problems.size=4", "samples=2"))
    finally:
        enough.set()
        holder.join(60)
    evaluate_agent(config(tmp_path, *SUMS, "problems.size=4", "samples=2"))
    assert len(lines(path)) == 8


def hold_lock(folder: Path, ready, enough) -> None:
    import fcntl

    with (folder / ".lock").open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        ready.set()
        enough.wait(60)


def test_an_episode_that_is_there_twice_is_named(tmp_path: Path) -> None:
    evaluate_agent(config(tmp_path, *SUMS, "problems.size=2"))
    path = tmp_path / "run" / "trajectories.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(UsageError, match=r"trajectories.jsonl: episode [01] is there twice"):
        Played.read(tmp_path / "run")


def test_k_beyond_the_samples_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ks: k=8 needs as many samples of a problem, and samples=4"):
        config(tmp_path, "samples=4", "ks=[1,8]")
    evaluate_agent(config(tmp_path, *SUMS, "problems.size=2", "samples=4", "ks=[3]"))
    assert [row["k"] for row in summary(tmp_path / "run")["statistics"]["at_k"]] == [3]


def test_a_run_that_has_hardly_begun_has_numbers_all_the_same(tmp_path: Path) -> None:
    evaluate_agent(config(tmp_path, *SUMS, "problems.size=3", "samples=4", "ks=[1,4]"))
    path = tmp_path / "run" / "trajectories.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    found = EvalSummary.of(read_run(tmp_path / "run"), Played.read(tmp_path / "run"))
    assert found.overall is not None and not found.complete
    assert [at.k for at in found.overall.at_k] == [1]
    assert "10 were not played" in markdown(found)
    path.write_text("")
    assert "nothing was played" in markdown(EvalSummary.of(read_run(tmp_path / "run"), Played.read(tmp_path / "run")))


def test_a_run_may_be_moved(tmp_path: Path) -> None:
    settings = config(tmp_path, *SUMS, "problems.size=3")
    evaluate_agent(settings)
    (tmp_path / "run").rename(tmp_path / "moved")
    path = tmp_path / "moved" / "trajectories.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    evaluate_agent(settings.model_copy(update={"out": str(tmp_path / "moved")}))
    assert len(lines(path)) == 3


def test_a_checkpoint_that_was_trained_elsewhere_says_so(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "train" / "checkpoints" / "final"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.symlink_to(tiny_folder, target_is_directory=True)
    trained = TrainConfig.model_validate({"env": {"max_tool_rounds": 3, "instructions": False}})
    copied = tmp_path / "train" / "checkpoints" / "copy"
    copied.mkdir()
    for file in tiny_folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    RunFolder(tmp_path / "train", trained)
    sizes = ["env.max_context_tokens=512", "env.max_turn_tokens=8", "env.instructions=false", "threads=1"]
    settings = ["agent=embedded", f"agent.path={copied}", *SUMS, "problems.size=1", *sizes]
    evaluate_agent(config(tmp_path, *settings))
    assert "env.max_tool_rounds=3 then, 8 now" in caplog.text
    assert "instructions" not in caplog.text
    # Other weights in the same place are another agent.
    weights = next(copied.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UsageError, match=r"agent\.weights: "):
        evaluate_agent(config(tmp_path, *settings))


class Endpoint:
    """Reads messages, and notes how much room it is given."""

    reads_messages = True

    def __init__(self, setup) -> None:
        self.budgets: list[int] = []

    def act(self, request: Request) -> Generation:
        self.budgets.append(request.budget)
        return Generation.written([65, 256], num_counted=7)


def test_endpoints_are_given_tokens_and_not_bytes(tmp_path: Path) -> None:
    name = f"{Path(__file__)}:Endpoint"
    evaluate_agent(config(tmp_path, f"agent.name={name}", *SUMS, "problems.size=2", "env.max_turn_tokens=100"))
    run = read_run(tmp_path / "run")
    assert run.identity.budgets["max_turn_tokens"] == 400
    found = read_summary(tmp_path / "run")
    assert found.overall is not None
    assert (found.unit, found.overall.tokens.mean) == ("tokens", 7.0)  # as the endpoint counted
    assert all(np.array(t.num_counted) == 7 for t in read_trajectories(tmp_path / "run" / "trajectories.jsonl"))


class Forgetful(Endpoint):
    """Leaves the count out once."""

    def act(self, request: Request) -> Generation:
        counted = super().act(request)
        return counted if len(self.budgets) != 3 else Generation.written([65, 66, 256])


def test_tokens_and_bytes_are_never_in_one_mean(tmp_path: Path) -> None:
    name = f"{Path(__file__)}:Forgetful"
    total, *_ = evaluate_agent(config(tmp_path, f"agent.name={name}", *SUMS, "problems.size=6", "num_slots=1"))
    found = read_summary(tmp_path / "run")
    assert found.overall is not None
    assert (found.unit, found.overall.tokens.low, found.overall.tokens.high) == ("bytes", 2.0, 3.0)
    assert found.overall.tokens.mean == total.num_action_tokens == pytest.approx(13 / 6)
    assert "| bytes: mean, for one solved " in markdown(found)


def test_an_override_replaces_a_mapping_of_a_recipe() -> None:
    settings = compose("train", TrainConfig, ["experiment=tiny_strategic", "threads=1", "problems.families={add: 1}"])
    assert settings.problems.families == {"add": 1.0}
    assert compose("train", TrainConfig, ["eval.problems=gsm8k"]).eval.problems.name == "gsm8k"
