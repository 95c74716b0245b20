"""What a person looks at on the page of all studies: a value that stands in its address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dashboards.address import Addressed, one_of

SORTS = ("name", "progress", "hypervolume", "evaluations")
SHARES = {"0.5": "1/2", "0.25": "1/4", "0.125": "1/8"}


@dataclass(frozen=True)
class StudiesView(Addressed):
    """The state of the page.

    Attributes:
        search: part of a name.
        sort: what studies are sorted by.
        share: of the W8A8 cost, under which the best policy is named.
        archived: whether archived studies are shown.
    """

    search: str = ""
    sort: str = "name"
    share: str = "0.25"
    archived: bool = False

    readers: ClassVar = {
        "search": str,
        "sort": one_of(*SORTS),
        "share": one_of(*SHARES),
        "archived": lambda text: text != "0",
    }
