"""How values show themselves to a person: in a notebook as HTML, on a terminal as they are.

No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from search.errors import ExitbitsError

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 20


def html_table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], *, most: int = MOST_ROWS
) -> str:
    """A table with a title; what lies beyond ``most`` rows is counted, not shown.

    Everything is escaped: names of studies and models come from other people.
    """
    listed = [[escape(str(cell)) for cell in row] for row in rows]
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in listed[:most]
    )
    more = f"<p>and {len(listed) - most} more</p>" if len(listed) > most else ""
    return (
        f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{more}"
    )


def visible(text: object) -> str:
    """What came from outside as a terminal may show it, or a log may hold it, on one line.

    Control characters, escape sequences, line ends and what changes the direction of writing are
    shown by their codes instead of being obeyed.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in shown
    )


def compact(widths: Sequence[int]) -> str:
    """Bits in little room: digits run together, 32 set apart."""
    if all(width < 10 for width in widths):
        return "".join(str(width) for width in widths)
    return " ".join(str(width) for width in widths)


def to_pandas(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame.

    Raises:
        ExitbitsError: where pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ExitbitsError(
            "pandas is not installed: 'pip install pandas', or use rows()"
        ) from None
    return pandas.DataFrame(rows)
