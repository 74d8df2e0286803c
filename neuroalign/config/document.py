"""The configuration as a page: every key with its type, default and meaning, from the typed sections."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from neuroalign.config.load import Config, section_type

_HEAD = """# Configuration

Written from the code by `make docs`; the same content is in `workflow/schemas/config.schema.json`.
A key that is not listed here is an error that names the nearest valid one.

"""


def configuration_page() -> str:
    """Markdown with one table per section of the configuration."""
    return _HEAD + "\n".join(_tables(Config, ""))


def _tables(section: type[BaseModel], prefix: str) -> Iterator[str]:
    rows, nested = [], []
    for name, field in section.model_fields.items():
        inner = section_type(field.annotation)
        if inner is not None:
            nested.append((f"{prefix}{name}", inner, field.description))
            continue
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{json.dumps(default)}`"
        # A key that is checked against a registry lists its choices in the schema.
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        kind = _choices(extra["enum"]) if "enum" in extra else _kind(field.annotation)
        rows.append(f"| `{prefix}{name}` | {kind} | {shown} | {field.description} |".replace("\n", " "))
    if rows:
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        yield from rows
        yield ""
    for name, inner, description in nested:
        yield f"{'##' if '.' not in name else '###'} {name}\n\n{description}\n"
        yield from _tables(inner, f"{name}.")


def _choices(values: Iterable[Any]) -> str:
    return " \\| ".join(f"`{value}`" for value in values)


def _kind(annotation: Any) -> str:
    """A type in words people use."""
    if get_origin(annotation) is Literal:
        return _choices(get_args(annotation))
    names = {str: "text", int: "whole number", float: "number", bool: "true \\| false", type(None): "null"}
    if annotation in names:
        return names[annotation]
    parts = [_kind(part) for part in get_args(annotation) if isinstance(part, type) or get_origin(part)]
    origin = get_origin(annotation)
    if origin in (list, tuple):
        return f"list of {parts[0]}"
    if origin is dict:
        return "mapping"
    return " \\| ".join(dict.fromkeys(parts)) or "value"
