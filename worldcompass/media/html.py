"""Building blocks of self-contained HTML pages, which load nothing from the network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from worldcompass.media.style import CSS


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page from finished parts."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def data_address(kind: str, content: bytes) -> str:
    """A ``data:`` address with a file's content; ``kind`` is its type, such as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def script(code: str, data: Any) -> str:
    """A script element whose code reads ``data`` from a constant of that name; the data cannot end the element."""
    literal = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    return f"<script>(() => {{ const data = {literal};\n{code}\n}})()</script>"
