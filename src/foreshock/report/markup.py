"""HTML as values: every string that is not already `Html` is escaped on its way in.

A run folder may come from anywhere, so names, reasons and configurations are untrusted. One type
for "already safe" and one function that builds elements leave no place to forget an escape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = frozenset({"br", "input", "meta", "link", "hr", "wbr"})


class Html(str):
    """A string that is safe to put into the page as it is."""

    __slots__ = ()


def join(children: Iterable[Any]) -> Html:
    """Concatenate children, escaping whatever is not `Html`; ``None`` disappears."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(escape(child, quote=True))
        elif isinstance(child, Iterable):
            parts.append(join(child))
        else:
            parts.append(escape(str(child), quote=True))
    return Html("".join(parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Build one element; ``class_`` and ``data_n`` become ``class`` and ``data-n``.

    Args:
        name: Element name.
        *children: `Html`, text, numbers, iterables of those, or ``None``.
        **attributes: Attribute values; ``True`` writes a bare attribute, ``None`` and ``False``
            leave it out.

    Returns:
        The element, safe to nest.

    Examples:
        >>> tag("p", "a < b", class_="note", data_n=3, hidden=False)
        '<p class="note" data-n="3">a &lt; b</p>'
    """
    rendered = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        rendered.append(label if value is True else f'{label}="{escape(str(value), quote=True)}"')
    opening = f"<{' '.join(rendered)}>"
    return Html(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def script_json(value: Any) -> Html:
    r"""JSON that can stand inside ``<script>`` whatever strings it carries.

    ``</script>``, ``<!--`` and the line separators U+2028/9 cannot occur: ``<``, ``>``, ``&`` and
    all non-ASCII are written as ``\uXXXX``, which JSON reads back unchanged.

    Args:
        value: JSON-ready data without nan or infinities.

    Returns:
        The JSON text.

    Examples:
        >>> script_json("</script>")
        '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(text)


def number(value: float | None) -> str:
    """Four significant digits with a true minus sign; nan and infinities by name.

    Args:
        value: The number, or ``None`` for a dash.

    Returns:
        Text for a person; the exact number stands beside it in a data attribute.

    Examples:
        >>> number(0.123456), number(-2.0), number(1.5e7), number(float("inf")), number(None)
        ('0.1235', '−2', '1.5e7', '+inf', '–')
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "+inf" if value > 0 else "−inf"
    magnitude = abs(value)
    if value == int(value) and magnitude < 1e6:
        text = f"{int(value):,}"
    elif 1e-3 <= magnitude < 1e6:
        text = f"{value:,.0f}" if magnitude >= 1e4 else f"{value:.4g}"
    else:
        mantissa, exponent = f"{value:.3e}".split("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return text.replace("-", "−")


def interval(low: float, high: float) -> str:
    """The ends of a 95 % interval, or an empty string where none is claimed."""
    return "" if math.isnan(low) and math.isnan(high) else f"[{number(low)}, {number(high)}]"
