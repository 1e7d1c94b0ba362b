"""``retool doctor``: each thing it looks at, broken for real where that can be done here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from retool_env.doctor.checkpoint import examine_checkpoint
from retool_env.doctor.command import main
from retool_env.doctor.finding import Finding
from retool_env.doctor.installation import examine_extras, explain_import
from retool_env.doctor.machine import examine_gpus, examine_machine, examine_port
from retool_env.doctor.servers import examine_endpoint, examine_sandbox_server
from tests.retool_env.fusion_server import serving

CLOSED = "http://127.0.0.1:9"
SMI = """#!/bin/sh
echo "0, NVIDIA H100 80GB HBM3, 81559, 12"
echo "1, NVIDIA H100 80GB HBM3, 81559, 61440"
"""


@contextmanager
def endpoint(status: int, body: str, key: str | None = None) -> Iterator[str]:
    """A server whose every path answers the same; with ``key``, only to who brings it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            let_in = key is None or self.headers.get("authorization") == f"Bearer {key}"
            self.send_response(status if let_in else 401)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def doctor(*arguments: str, cwd: Path, **environment: str) -> tuple[int, dict[str, Finding], bool]:
    """Exit code, findings by topic, and whether torch was imported."""
    code = (
        "import sys; from retool_env.cli import main; code = main(sys.argv[1:]); "
        "sys.stderr.write(str('torch' in sys.modules)); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "doctor", "--json", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )
    found = [Finding(**row) for row in json.loads(done.stdout)]
    return done.returncode, {finding.topic: finding for finding in found}, done.stderr.endswith("True")


def test_a_healthy_machine(tmp_path: Path) -> None:
    code, found, imported_torch = doctor(cwd=tmp_path)
    assert code == 0 and not imported_torch
    assert {"installation", "names", "[train]", "machine", "sandbox", "port 8080"} <= set(found)
    assert all(finding.level != "wrong" for finding in found.values())
    assert "tier T" in found["sandbox"].said
    assert found["[train]"].said.startswith("complete, torch 2.13.0")


def test_another_package_called_agents(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").touch()
    info = tmp_path / "openai_agents-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: openai-agents\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("agents\n")
    code, found, _ = doctor(cwd=tmp_path)
    assert code == 1
    assert found["names"].level == "wrong"
    assert f"`import agents` finds {tmp_path / 'agents'}, which is not ours but openai-agents's" in found["names"].said
    evaluation = [sys.executable, "-c", "from retool_env.cli import main; raise SystemExit(main(['eval']))"]
    done = subprocess.run(evaluation, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "which is not ours" in done.stderr and "doctor" in done.stderr


def test_a_command_without_its_extra_says_which() -> None:
    code = "import sys; sys.modules['torch'] = None; from retool_env.cli import main; sys.exit(main(['train']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "retool: this needs the [train] extra (torch is missing): pip install 'retool-env[train]'\n"


def test_the_cause_behind_a_failed_import_counts() -> None:
    """transformers' own message names a class and no module."""
    error = ModuleNotFoundError("Could not import module 'PreTrainedModel'")
    error.__cause__ = ModuleNotFoundError("No module named 'safetensors'", name="safetensors")
    assert explain_import(error) == (
        "this needs the [train] extra (safetensors is missing): pip install 'retool-env[train]'"
    )


def test_a_missing_module_of_somebody_else_is_not_explained() -> None:
    assert explain_import(ModuleNotFoundError("No module named 'nobody'", name="nobody")) is None


def test_an_old_version_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of our metadata that asks for what is not here."""
    info = tmp_path / "retool_env-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: retool-env\nVersion: 0\nProvides-Extra: train\nProvides-Extra: data\n"
        'Requires-Dist: numpy\nRequires-Dist: pydantic>99; extra == "train"\nRequires-Dist: nobody; extra == "data"\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    train, data = examine_extras()
    assert (train.topic, train.level, train.fix) == ("[train]", "wrong", "pip install 'retool-env[train]'")
    assert "pydantic" in train.said and "expected >99" in train.said
    assert data.level == "note" and data.said.startswith("not there: nobody")


def test_gpus_as_the_driver_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    free, taken, visible, *torch = examine_gpus()
    assert (free.level, free.said) == ("ok", "NVIDIA H100 80GB HBM3, 80 GiB")
    assert taken.level == "note" and "60 of 80 GiB are taken" in taken.said
    assert visible.level == "wrong" and "names 2, but there are 0, 1" in visible.said
    assert all("build for CPUs" in finding.said for finding in torch)


def test_no_gpu_and_a_broken_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (nothing,) = examine_gpus()
    assert nothing.level == "note" and "none found" in nothing.said
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    broken, *_ = examine_gpus()
    assert broken.said == "nvidia-smi failed: NVIDIA-SMI has failed"


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert examine_machine(tmp_path).level in ("ok", "note")
    monkeypatch.setattr("retool_env.doctor.machine._LITTLE_DISK", 2**60)
    assert "keep_last" in examine_machine(tmp_path).fix


def test_servers() -> None:
    with serving("--token-env", "DOCTORS_TOKEN", env={"DOCTORS_TOKEN": "secret"}) as server:
        refused = examine_sandbox_server(server.url)
        assert refused.level == "wrong" and "wants a token" in refused.said
        os.environ["SANDBOX_FUSION_TOKEN"] = "secret"
        try:
            assert examine_sandbox_server(server.url).said.startswith("runs programs")
        finally:
            del os.environ["SANDBOX_FUSION_TOKEN"]
        taken = examine_port(int(server.url.rpartition(":")[2]), "tests")
        assert taken.said == "taken by a sandbox server; usual place of tests"
    gone = examine_sandbox_server(CLOSED)
    assert gone.level == "wrong" and "retool sandbox serve" in gone.fix
    assert examine_sandbox_server("ftp://nowhere").level == "wrong"


def test_endpoints() -> None:
    models = json.dumps({"data": [{"id": "tiny"}]})
    with endpoint(200, models, key="secret") as url:
        assert examine_endpoint(f"{url}/v1", "secret") == Finding(
            topic=f"endpoint {url}/v1", said="answers; models: tiny"
        )
        refused = examine_endpoint(f"{url}/v1", "wrong")
        assert refused.level == "wrong" and "OPENAI_API_KEY" in refused.fix
    with endpoint(404, "no") as url:
        assert "/v1" in examine_endpoint(url, None).fix
    with endpoint(200, "no json") as url:
        assert examine_endpoint(url, None).said.endswith("it does not say")
    assert examine_endpoint(f"{CLOSED}/v1", None).level == "wrong"
    assert examine_endpoint("nowhere", None).level == "wrong"


def test_checkpoints(tiny_folder: Path, tmp_path: Path) -> None:
    def copy(name: str, without: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in tiny_folder.iterdir():
            if path.name != without:
                (folder / path.name).symlink_to(path)
        return folder

    (whole,) = examine_checkpoint(tiny_folder)
    assert (whole.level, whole.said) == ("ok", "qwen2, 1024 positions, without chat template")
    for name in ("config.json", "tokenizer.json"):
        (missing,) = examine_checkpoint(copy(f"without-{name}", without=name))
        assert missing.level == "wrong" and missing.said == f"no {name}"
    (note,) = examine_checkpoint(copy("untold", without="tokenizer_config.json"))
    assert note.level == "note" and "end-of-turn" in note.said

    broken = copy("broken", without="config.json")
    (broken / "config.json").write_text("{")
    assert examine_checkpoint(broken)[0].said == "config.json is no JSON"
    empty = copy("empty", without="model.safetensors")
    assert "no weights" in examine_checkpoint(empty)[0].said
    (empty / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS" in examine_checkpoint(empty)[0].said

    sharded = copy("sharded", without="model.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": np.zeros(400, dtype=np.float32)}, sharded / "model-1.safetensors")
    shard, lacking = examine_checkpoint(sharded)
    assert shard.said == "1 of 2 shards are missing: model-2.safetensors"
    assert lacking.said == "model-1.safetensors: 1 tensors are not in it, c among them"

    torn = copy("torn", without="model.safetensors")
    content = (tiny_folder / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(content[: len(content) // 2])
    (cut,) = examine_checkpoint(torn)
    assert cut.level == "wrong" and f"its header says {len(content):,}" in cut.said
    (torn / "model.safetensors").write_bytes(b"\xff" * 2000)
    assert examine_checkpoint(torn)[0].said == "model.safetensors: its header cannot be read"
    (absent,) = examine_checkpoint(tmp_path / "nowhere")
    assert absent.said == "no such folder"


def test_the_table_puts_what_is_wrong_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--base-url", f"{CLOSED}/v1"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("wrong") and "[train]" in out
    assert out.splitlines()[-1].startswith("2 of ")
    assert main(["--help"]) == 0
    assert "exit code" in capsys.readouterr().out


def test_every_extra_has_a_purpose() -> None:
    found = examine_extras()
    assert len(found) > 10
    assert [finding.topic for finding in found if "other uses" in finding.said] == []
