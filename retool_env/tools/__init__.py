"""What the policy may call: the code interpreter, and typed Python functions.

A :class:`ToolCall` is what a dialect read out of a turn; a :class:`ToolResult` is what goes back. The text of a result
says in words how the call ended, because the model sees nothing else: a program that timed out, one that ran out of
memory, an argument of the wrong type and a sandbox that is down all read differently.

A :class:`Tool` has a :class:`ToolSpec` and is opened once for each episode. :func:`function_tool` makes one of a
function, :func:`load_tools` loads a file of them, :class:`CodeInterpreter` is the one that ReTool is about, and a
:class:`ToolBox` holds those of an environment and runs the calls of a turn. Left out: how calls are written
(``dialects``), and how long an output may be (``episode``).
"""

from __future__ import annotations

from retool_env.tools.base import (
    Arguments,
    ChecksSettings,
    Tool,
    ToolCall,
    ToolContext,
    ToolHandle,
    ToolReply,
    ToolResult,
)
from retool_env.tools.box import ToolBox, ToolSession
from retool_env.tools.function import FunctionTool, function_tool
from retool_env.tools.interpreter import NO_OUTPUT, CodeInterpreter, Traceback, interpreter_spec
from retool_env.tools.loading import load_tools
from retool_env.tools.spec import ToolSpec, describe_tools

__all__ = [
    "NO_OUTPUT",
    "Arguments",
    "ChecksSettings",
    "CodeInterpreter",
    "FunctionTool",
    "Tool",
    "ToolBox",
    "ToolCall",
    "ToolContext",
    "ToolHandle",
    "ToolReply",
    "ToolResult",
    "ToolSession",
    "ToolSpec",
    "Traceback",
    "describe_tools",
    "function_tool",
    "interpreter_spec",
    "load_tools",
]
