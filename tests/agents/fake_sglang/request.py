"""What may be asked of ``/generate``, and the three shapes in which it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from starlette.responses import JSONResponse, Response


class Refused(Exception):
    """Ends a request with an error of one of SGLang's shapes."""

    def __init__(self, message: str, *, shape: str = "detail", status: int = 400) -> None:
        super().__init__(message)
        self.shape, self.status = shape, status

    def response(self) -> Response:
        body: dict[str, Any] = {"error": str(self)}
        if self.shape == "detail":
            body = {"error": {"message": str(self)}}
        elif self.shape == "object":
            body = {"object": "error", "message": str(self)}
        return JSONResponse(body, status_code=self.status)


@dataclass(frozen=True, kw_only=True)
class Params:
    """``sampling_params`` with SGLang's defaults; keys that mean nothing here are accepted and have no effect."""

    max_new_tokens: int | None = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    n: int = 1
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    sampling_seed: int | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Params:
        legal = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(legal)):
            raise Refused(f"Unexpected keyword arguments {unknown}; legal keys: {legal}", shape="text")
        params = cls(**given)
        if params.temperature < 0:
            raise Refused(f"temperature must be non-negative, got {params.temperature}.")
        if not 0 < params.top_p <= 1:
            raise Refused(f"top_p must be in (0, 1], got {params.top_p}.")
        if params.top_k == 0 or params.top_k < -1:
            raise Refused(f"top_k must be -1 (disable) or at least 1, got {params.top_k}.")
        return params
