"""A JSON schema as text that was checked, and a document's fault by it (`jsonschema`). Nothing is ever fetched."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012


def checked_schema(schema: Any) -> str:
    """A mapping, a boolean or a file's path as JSON text. Raises `ValueError` for a schema that cannot be used."""
    schema = _from_file(schema) if isinstance(schema, str | Path) else schema
    if not isinstance(schema, Mapping | bool):
        raise ValueError(f"schema must be a mapping or the path of a JSON file, got {schema!r:.80}")
    try:
        text = json.dumps(schema, allow_nan=False)
        _dialect(schema).check_schema(schema)
        _check_references(schema)
        trivials: tuple[Any, ...] = (None, "", 0, [], {})
        for trivial in trivials:
            list(_validator(text).iter_errors(trivial))  # all of it, to see that there is an end
    except SchemaError as error:
        raise ValueError(f"schema must be a JSON schema, at {error.json_path}: {error.message:.200}") from error
    except RecursionError as error:
        raise ValueError("schema must come to an end, got one that refers to itself without looking deeper") from error
    except TypeError as error:
        raise ValueError(f"schema must be JSON, got {schema!r:.80}: {error}") from error
    return text


def schema_fault(call: tuple[str, Any]) -> str:
    """What is wrong with a document, `(schema as JSON, document)`; empty where nothing is."""
    schema_text, document = call
    error = next(_validator(schema_text).iter_errors(document), None)
    return "" if error is None else f"{error.json_path[:80]}: {error.message}"[:200]


@functools.lru_cache(maxsize=32)
def _validator(schema_text: str) -> Any:
    schema = json.loads(schema_text)
    return _dialect(schema)(schema, registry=Registry())  # an own registry: the default one asks the network


def _dialect(schema: Any) -> Any:
    name = schema.get("$schema") if isinstance(schema, Mapping) else None
    unknown: Any = None
    found = validator_for(schema, default=unknown) if name is not None else validator_for(True)
    if found is None:
        raise ValueError(f"schema must be of a known dialect, got $schema {name!r:.80}")
    return found


def _from_file(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"schema must be a mapping or the path of a JSON file, got {str(path)!r}: {error}") from error


def _check_references(schema: Any) -> None:
    """Raise `ValueError` for a reference to what is neither in the schema nor a dialect's own."""
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    try:
        _walk(resource, REGISTRY.resolver_with_root(resource))
    except Unresolvable as error:
        raise ValueError(f"schema must hold what it refers to (nothing is fetched), got {error.ref!r}") from error


def _walk(resource: Any, resolver: Any) -> None:
    for keyword in ("$ref", "$dynamicRef"):
        if isinstance(resource.contents, Mapping) and isinstance(reference := resource.contents.get(keyword), str):
            resolver.lookup(reference)
    for inner in resource.subresources():
        _walk(inner, resolver.in_subresource(inner))
