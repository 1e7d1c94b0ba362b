"""Servers that a run would ask: a sandbox and a chat endpoint, tried once each, as a run would use them."""

from __future__ import annotations

import time
from typing import Final

import httpx

from retool_env.doctor.finding import Finding
from retool_env.errors import UsageError
from retool_env.sandbox.fusion.client import FusionSandbox
from retool_env.urls import mask_url

__all__ = ["examine_endpoint", "examine_sandbox_server"]

_SECONDS: Final = 10.0


def examine_sandbox_server(url: str) -> Finding:
    """Run a program on a SandboxFusion server; ``SANDBOX_FUSION_TOKEN`` is its token."""
    topic, start = f"sandbox {mask_url(url)}", time.perf_counter()
    try:
        sandbox = FusionSandbox(url, max_attempts=1, deadline_seconds=_SECONDS)
        result = sandbox.health()
        sandbox.close()
    except UsageError as error:
        fix = "correct the address, or set SANDBOX_FUSION_TOKEN"
        return Finding(topic=topic, said=str(error), level="wrong", fix=fix)
    if result.stdout == "ok\n":
        return Finding(topic=topic, said=f"runs programs; the first took {1000 * (time.perf_counter() - start):.0f} ms")
    fix = "start one: `retool sandbox serve --port 8080`; check host, port and firewall"
    if result.fault == "busy":
        fix = "it is full: raise its --max-running and --max-queue, or lower num_slots"
    return Finding(topic=topic, said=" ".join(result.stderr.split()), level="wrong", fix=fix)


def examine_endpoint(url: str, api_key: str | None) -> Finding:
    """Ask an OpenAI-compatible endpoint which models it has."""
    topic = f"endpoint {mask_url(url)}"
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=_SECONDS, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fix = "is it running, and does the address look like http://host:8000/v1?"
        return Finding(topic=topic, said=str(error) or type(error).__name__, level="wrong", fix=fix)
    if answer.status_code in (401, 403):
        said = f"it refused the API key (status {answer.status_code})"
        return Finding(topic=topic, said=said, level="wrong", fix="give --api-key, or set OPENAI_API_KEY")
    if answer.status_code != 200:
        fix = "the address must end where /chat/completions begins, usually in /v1"
        said = f"/models answered with status {answer.status_code}"
        return Finding(topic=topic, said=said, level="wrong" if answer.status_code == 404 else "note", fix=fix)
    return Finding(topic=topic, said=f"answers; models: {_models(answer)}")


def _models(answer: httpx.Response) -> str:
    try:
        return ", ".join(str(row["id"]) for row in answer.json()["data"]) or "none"
    except (ValueError, LookupError, TypeError):
        return "it does not say"
