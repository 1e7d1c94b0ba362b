"""What a model reads about a tool: name, description and a JSON schema of the arguments.

:meth:`ToolSpec.openai` is the object that chat templates and endpoints expect. :func:`describe_tools` is for people.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, JsonValue

__all__ = ["ToolSpec", "describe_tools"]


class ToolSpec(BaseModel):
    """One tool as the model sees it.

    Attributes:
        name: what the model writes to call it; letters, digits, ``_`` and ``-``, as endpoints demand.
        description: what it does.
        parameters: JSON schema of an object, with a property for each argument.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str
    parameters: dict[str, JsonValue]

    def openai(self) -> dict[str, JsonValue]:
        """The spec in OpenAI's function format."""
        return {"type": "function", "function": self.model_dump()}

    @property
    def signature(self) -> str:
        """``name(a: integer, b: string = "x")``."""
        properties, required = self.parameters.get("properties"), self.parameters.get("required")
        rows = properties.items() if isinstance(properties, dict) else ()
        needed = required if isinstance(required, list) else []
        return f"{self.name}({', '.join(_parameter(name, schema, name in needed) for name, schema in rows)})"


def describe_tools(specs: Iterable[ToolSpec]) -> str:
    """One line for each tool: its signature and the first line of its description."""
    return "\n".join(f"{spec.signature}: {spec.description.partition(chr(10))[0]}" for spec in specs)


def _parameter(name: str, schema: JsonValue, required: bool) -> str:
    if not isinstance(schema, dict):
        return name
    kind = f"{name}: {_kind(schema)}"
    return kind if required else f"{kind} = {_default(schema.get('default'))}"


def _kind(schema: dict[str, JsonValue]) -> str:
    if isinstance(values := schema.get("enum"), list):
        return " | ".join(map(_default, values))
    if isinstance(options := schema.get("anyOf"), list):
        return " | ".join(_kind(option) for option in options if isinstance(option, dict))
    if isinstance(items := schema.get("items"), dict):
        return f"array of {_kind(items)}"
    return str(schema.get("type", "any"))


def _default(value: JsonValue) -> str:
    return repr(value) if isinstance(value, str) else str(value)
