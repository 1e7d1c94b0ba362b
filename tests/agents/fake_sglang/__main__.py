"""Serve the fake; prints ``serving http://127.0.0.1:PORT`` once it listens."""

from __future__ import annotations

import argparse
import ctypes
import signal
import socket

import uvicorn

from tests.agents.fake_sglang.app import Api
from tests.agents.fake_sglang.brain import Brain, ModelBrain, RandomBrain
from tests.agents.fake_sglang.scheduler import Scheduler

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", help="checkpoint folder")
    parser.add_argument("--random", action="store_true", help="random bytes instead of a model")
    parser.add_argument("--boost", nargs="*", default=[], metavar="ID=LOGIT", help="likelier ids of --random")
    parser.add_argument("--context-length", type=int, default=8192, help="of --random")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key")
    parser.add_argument("--max-running-requests", type=int, default=64)
    parser.add_argument("--step-seconds", type=float, default=0.0, help="how long a step takes beyond its work")
    parser.add_argument("--health-seconds", type=float, default=20.0)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no server outlives its test
    boosts = {int(token): float(logit) for token, _, logit in (entry.partition("=") for entry in options.boost)}
    brain: Brain = RandomBrain(boosts, options.context_length) if options.random else ModelBrain(options.model)
    scheduler = Scheduler(brain, max_running=options.max_running_requests, step_seconds=options.step_seconds)
    api = Api(scheduler, api_key=options.api_key, health_seconds=options.health_seconds)
    with socket.create_server(("127.0.0.1", options.port), backlog=1024) as listener:
        print(f"serving http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        server = uvicorn.Server(uvicorn.Config(api.app(), log_level="warning", timeout_keep_alive=5))
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
