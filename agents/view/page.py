"""The HTML file: template, style, script and data, nothing from outside.

What models and tasks wrote is data in a block that is never executed, with every `<` written as an escape, so no text
can end the block; the page's script puts it into the document as text alone. Beyond that a content security policy
allows only this page's own script and style, by their hashes, and no request to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any


def page(data: Mapping[str, Any]) -> str:
    """The whole file for what `packed` made."""
    template, style, script = (part(f"page.{kind}") for kind in ("html", "css", "js"))
    values = {
        "title": html.escape(f"{data['title']} · completions"),
        "policy": f"default-src 'none'; script-src {allowed(script)}; style-src {allowed(style)}",
        "style": style,
        "script": script,
        "data": as_block(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def part(name: str) -> str:
    """A file beside this module."""
    return resources.files("agents.view").joinpath(name).read_text(encoding="utf-8")


def as_block(data: Mapping[str, Any]) -> str:
    r"""JSON that may stand inside of `<script>`: ASCII, and no `<`, so neither an end tag nor a comment begins in it.

    >>> as_block({"a": "</script>"})
    '{"a":"\\u003c/script>"}'
    """
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def allowed(text: str) -> str:
    """How a content security policy names an inline block."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
