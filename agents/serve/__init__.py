"""Starting, supervising and stopping SGLang servers: ``retool serve``, and the same from Python."""

from __future__ import annotations

from agents.serve.process import ServerProcess, ServerSpec
from agents.serve.supervisor import Supervisor
from agents.serve.watch import Patience

__all__ = ["Patience", "ServerProcess", "ServerSpec", "Supervisor"]
