"""The frame of every page: one document that asks nothing of the network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from worldcompass.media.style import CSS


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of finished parts."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def data_address(kind: str, content: bytes) -> str:
    """``data:`` address of a file's content, such as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def script(code: str, data: Any) -> str:
    """Code that finds ``data`` in a constant of that name; nothing in the data can end the element."""
    held = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    return f"<script>(() => {{ const data = {held};\n{code}\n}})()</script>"
