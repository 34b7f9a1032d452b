"""How mails look: HTML that mail programs of all ages show (tables, inline styles, nothing from elsewhere), and
the same as plain text. Whatever is put in is text, and becomes text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

import msgspec

FONT = "font-family:-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
MONO = "font-family:ui-monospace,Menlo,Consolas,monospace"
PARAGRAPH = f"margin:0 0 16px;{FONT};font-size:16px;line-height:24px;color:#1f2933"
SMALL = f"margin:0 0 8px;{FONT};font-size:13px;line-height:20px;color:#616e7c"
TEXT_WIDTH = 78


class Words(msgspec.Struct, frozen=True):
    """A paragraph."""

    text: str


class Facts(msgspec.Struct, frozen=True):
    """A table of names and values."""

    rows: Sequence[tuple[str, str]]


class Code(msgspec.Struct, frozen=True):
    """Something to be copied as it is."""

    text: str


class Link(msgspec.Struct, frozen=True):
    """A button."""

    label: str
    url: str


type Block = Words | Facts | Code | Link


def as_html(subject: str, blocks: Sequence[Block], footer: Sequence[Block]) -> str:
    """A whole page; `subject` is its title and heading."""
    heading = f"margin:0 0 24px;{FONT};font-size:22px;line-height:28px;font-weight:600;color:#102a43"
    body = "\n".join(_html(block, PARAGRAPH) for block in blocks)
    foot = "\n".join(_html(block, SMALL) for block in footer)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>{escape(subject)}</title>
</head>
<body style="margin:0;padding:0;background-color:#f0f4f8">
<table role="presentation" width="100%" cellpadding="0" cellspacing="0" border="0" style="background-color:#f0f4f8">
<tr><td align="center" style="padding:32px 12px">
<table role="presentation" width="100%" cellpadding="0" cellspacing="0" border="0" style="max-width:560px">
<tr><td style="padding:0 8px 16px;{FONT};font-size:15px;font-weight:600;color:#243b53">Gatewayz</td></tr>
<tr><td style="padding:32px;background-color:#ffffff;border:1px solid #d9e2ec;border-radius:8px">
<h1 style="{heading}">{escape(subject)}</h1>
{body}
</td></tr>
<tr><td style="padding:20px 8px 0">
{foot}
</td></tr>
</table>
</td></tr>
</table>
</body>
</html>
"""


def as_text(blocks: Sequence[Block], footer: Sequence[Block]) -> str:
    """The same for who reads plain text."""
    said, foot = ("\n\n".join(map(_text, each)) for each in (blocks, footer))
    return f"{said}\n\n-- \n{foot}\n"


def _html(block: Block, style: str) -> str:
    match block:
        case Words(text):
            return f'<p style="{style}">{escape(text)}</p>'
        case Code(text):
            box = f"margin:0 0 16px;padding:12px 14px;background-color:#f0f4f8;border-radius:6px;{MONO};font-size:14px"
            look = "line-height:20px;color:#102a43;white-space:pre-wrap;word-break:break-all"
            return f'<pre style="{box};{look}">{escape(text)}</pre>'
        case Link(label, url) if style == SMALL:
            return f'<p style="{style}"><a href="{escape(url)}" style="color:#616e7c">{escape(label)}</a></p>'
        case Link(label, url):
            look = f"display:inline-block;padding:11px 22px;{FONT};font-size:15px;font-weight:600;color:#ffffff"
            cell = '<td style="background-color:#0b69a3;border-radius:6px">'
            table = '<table role="presentation" cellpadding="0" cellspacing="0" border="0" style="margin:8px 0 16px">'
            anchor = f'<a href="{escape(url)}" style="{look};text-decoration:none">{escape(label)}</a>'
            return f"{table}<tr>{cell}{anchor}</td></tr></table>"
        case Facts(rows):
            return _html_table(rows)


def _html_table(rows: Sequence[tuple[str, str]]) -> str:
    cell = f"padding:8px 0;border-bottom:1px solid #e4e7eb;{FONT};font-size:15px;line-height:22px;vertical-align:top"
    lines = [
        f'<tr><td style="{cell};color:#616e7c">{escape(name)}</td>'
        f'<td align="right" style="{cell};padding-left:16px;color:#102a43;word-break:break-word">{escape(value)}</td>'
        "</tr>"
        for name, value in rows
    ]
    table = '<table width="100%" cellpadding="0" cellspacing="0" border="0" style="margin:0 0 20px">'
    return "\n".join([table, *lines, "</table>"])


def _text(block: Block) -> str:
    match block:
        case Words(text):
            return textwrap.fill(text, TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
        case Code(text):
            return textwrap.indent(text, "    ")
        case Link(label, url):
            return f"{label}:\n{url}"
        case Facts(rows):
            width = max((len(name) for name, _ in rows), default=0)
            return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
