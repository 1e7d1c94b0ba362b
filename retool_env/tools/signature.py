"""From the signature of a typed function to a JSON schema, and from JSON arguments to the values for a call.

Any annotation that pydantic understands works: ``str``, ``int``, ``float``, ``bool``, ``list``, ``dict``, ``Literal``,
``Optional``, enumerations, dataclasses, nested models, ``Annotated[..., Field(...)]`` with bounds. A parameter that is
annotated with :class:`~retool_env.tools.base.ToolContext` is not the model's: it gets the episode's context.

Values are checked *strictly*, with JSON's idea of types: ``3`` is a float, but neither ``"3"`` nor ``3.0`` nor ``true``
is an int. A model that is told so learns to write what the schema says; quietly mending it would hide the mistake.
Left out: ``*args``, ``**kwargs`` and models that contain themselves, which are refused.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model
from pydantic.errors import PydanticUserError

from retool_env.errors import UsageError, did_you_mean
from retool_env.tools.base import Arguments, ToolContext
from retool_env.tools.docstring import parse_docstring
from retool_env.tools.spec import ToolSpec

__all__ = ["BadArgumentsError", "Signature"]

_LITERAL = frozenset({"default", "enum", "const", "examples", "required"})
_BY_NAME = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})


class BadArgumentsError(ValueError):
    """The model called with wrong arguments; the message names each of them."""


class Signature:
    """How ``function`` is called.

    Args:
        name: what the model calls it; the function's own name by default.

    Raises:
        UsageError: no docstring, a parameter without a type, or one that no JSON schema can describe.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        hints = self._hints(function)
        parameters = dict(inspect.signature(function).parameters)
        self.context_name = next((key for key, hint in hints.items() if hint is ToolContext), None)
        parameters.pop(self.context_name or "", None)
        document = parse_docstring(function.__doc__ or "")
        self._check(parameters.values(), document.description, document.arguments)
        # Fields get names of ours, because a parameter may be called like an attribute of pydantic's models.
        self._fields = {f"field_{k}": key for k, key in enumerate(parameters)}
        fields: dict[str, Any] = {
            field: (hints[key], _field(key, parameters[key], document.arguments.get(key)))
            for field, key in self._fields.items()
        }
        try:
            self._model: type[BaseModel] = create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)
            self._schema = self._model.model_json_schema()
        except PydanticUserError as error:
            raise UsageError(
                f"tool {self.name!r}: no JSON schema describes it: {str(error).splitlines()[0]}"
            ) from error
        self._description = document.description

    @cached_property
    def spec(self) -> ToolSpec:
        definitions = self._schema.get("$defs", {})
        properties = {key: self._plain(value, definitions, ()) for key, value in self._schema["properties"].items()}
        parameters = {"type": "object", "properties": properties, "required": self._schema.get("required", [])}
        try:
            return ToolSpec(name=self.name, description=self._description, parameters=parameters)
        except ValidationError as error:
            raise UsageError(
                f"tool {self.name!r}: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
            ) from error

    def read(self, arguments: Arguments) -> dict[str, object]:
        """The values to call the function with; what was not given is left to its defaults.

        Raises:
            BadArgumentsError: names every argument that is wrong, and what was expected.
        """
        try:
            read = self._model.model_validate_json(json.dumps(dict(arguments)), strict=True)
        except ValidationError as error:
            raise BadArgumentsError("\n".join(self._complaint(dict(row)) for row in error.errors())) from error
        return {self._fields[field]: getattr(read, field) for field in self._fields if field in read.model_fields_set}

    def _hints(self, function: Callable[..., Any]) -> dict[str, Any]:
        try:
            return typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError) as error:
            raise UsageError(f"tool {self.name!r}: its annotations cannot be resolved ({error})") from error

    def _check(self, parameters: Iterable[inspect.Parameter], description: str, described: Iterable[str]) -> None:
        if not description:
            raise UsageError(f"tool {self.name!r} has no docstring; write one, the model reads it as its description")
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.kind not in _BY_NAME:
                raise UsageError(f"tool {self.name!r}: parameter {str(parameter)!r} cannot be given by name; name each")
            if parameter.annotation is inspect.Parameter.empty:
                raise UsageError(f"tool {self.name!r}: parameter {parameter.name!r} has no type; annotate it")
        names = {parameter.name for parameter in parameters} | {self.context_name}
        for name in described:
            if name not in names:
                raise UsageError(f"tool {self.name!r}: its docstring describes {name!r}, which is no parameter of it")

    def _plain(self, schema: Any, definitions: dict[str, Any], inside: tuple[str, ...]) -> JsonValue:
        """The schema without titles, with definitions put in place, and ``X or null`` as ``X``."""
        if isinstance(schema, list):
            return [self._plain(item, definitions, inside) for item in schema]
        if not isinstance(schema, dict):
            return typing.cast("JsonValue", schema)
        if reference := schema.get("$ref"):
            name = reference.rpartition("/")[2]
            if name in inside:
                raise UsageError(f"tool {self.name!r}: {name!r} contains itself; models cannot be told such a schema")
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return self._plain({**definitions[name], **rest}, definitions, (*inside, name))
        options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
        if len(options) == 1:
            rest = {k: v for k, v in schema.items() if k != "anyOf" and (k, v) != ("default", None)}
            return self._plain({**options[0], **rest}, definitions, inside)
        plain: dict[str, JsonValue] = {}
        for key, value in schema.items():
            if key in _LITERAL:
                plain[key] = value
            elif key == "properties":
                plain[key] = {name: self._plain(inner, definitions, inside) for name, inner in value.items()}
            elif key != "title":
                plain[key] = self._plain(value, definitions, inside)
        return plain

    def _complaint(self, error: dict[str, Any]) -> str:
        """One line about one argument, in the words of the schema."""
        first, *rest = [str(part) for part in error["loc"]] or ["?"]
        where = f"argument {'.'.join([first, *rest])!r} of {self.name}"
        match error["type"]:
            case "missing":
                return f"Error: {where} is missing"
            case "extra_forbidden" if not rest:
                return f"Error: {self.name} has no argument {first!r}{did_you_mean(first, self._fields.values())}"
            case _:
                message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
                given = json.dumps(error["input"], ensure_ascii=False, default=str)
                return f"Error: {where}: {message}, got {given if len(given) <= 80 else given[:77] + '...'}"


def _field(name: str, parameter: inspect.Parameter, description: str | None) -> Any:
    default = ... if parameter.default is inspect.Parameter.empty else parameter.default
    if description is None:  # one that is given here would hide that of an ``Annotated``
        return Field(default, alias=name)
    return Field(default, alias=name, description=description)
