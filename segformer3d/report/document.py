"""What a report is made of: frozen values that say what is shown, never how.

A document holds blocks, and sections with blocks of their own. `segformer3d.report.html` and
`segformer3d.report.markdown` turn the same document into a page and into its Markdown twin. All texts are plain: what
looks like markup in them, in the name of a case for one, is shown as it stands.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Code:
    """A name that a computer gave: a file, an option, a hash."""

    text: str


@dataclass(frozen=True)
class Link:
    """A text that leads to a page on the web; `url` begins with https://."""

    text: str
    url: str


Text = str | tuple[str | Code | Link, ...]


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: Text


@dataclass(frozen=True)
class Note:
    """Something that must not be overlooked: a "warning", or a "remark" on how to read what is around it."""

    text: Text
    kind: Literal["warning", "remark"] = "remark"


@dataclass(frozen=True)
class Items:
    """A list of points."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Facts:
    """Terms and what they are here."""

    facts: tuple[tuple[str, Text], ...]


@dataclass(frozen=True)
class Figure:
    """One number that the report is about: what it is, its value, and what to know beside it."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Headline:
    """The few numbers that a reader in a hurry takes away."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Verbatim:
    """Lines to be copied as they are."""

    text: str


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, smaller words beside it, and whether it stands out."""

    text: Text
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """A column's heading; those of numbers are set flush right."""

    name: str
    kind: Literal["text", "number"] = "number"


@dataclass(frozen=True)
class Table:
    """Rows under headings. The first cell of a row is its heading.

    Attributes:
        caption: what the table holds.
        columns: the headings.
        rows: of as many cells as there are columns; a plain text is a cell without more.
        note: what to know about the numbers, below the table.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r} has {len(self.columns)} columns, a row {len(row)} cells")


@dataclass(frozen=True)
class Picture:
    """A PNG.

    Attributes:
        name: of its file beside the Markdown, without an ending.
        content: the PNG, as it looks on white paper.
        dark: the same for dark screens, if it differs.
        alternative: what is to be seen, for those who cannot see it.
        caption: the line below.
    """

    name: str
    content: bytes
    alternative: str
    caption: str
    dark: bytes | None = None


@dataclass(frozen=True)
class Gallery:
    """Pictures beside each other as far as there is room."""

    pictures: tuple[Picture, ...]


Block = Paragraph | Note | Items | Facts | Headline | Verbatim | Table | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it: blocks first, then sections of the next level."""

    title: str
    blocks: tuple[Block, ...]
    sections: tuple["Section", ...] = ()


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: what it is about.
        kind: what sort of report this is, in two or three words.
        subtitle: the line under the title: who, when.
        blocks: what comes before the first section.
        sections: the report's parts.
        colophon: who wrote it, at the foot.
    """

    title: str
    kind: str
    subtitle: str
    blocks: tuple[Block, ...]
    sections: tuple[Section, ...]
    colophon: Text


def pictures_of(document: Document) -> tuple[Picture, ...]:
    """All pictures, in the order of reading."""
    return tuple(_pictures(document.blocks, document.sections))


def _pictures(blocks: tuple[Block, ...], sections: tuple[Section, ...]) -> Iterator[Picture]:
    for block in blocks:
        match block:
            case Picture():
                yield block
            case Gallery(pictures):
                yield from pictures
    for section in sections:
        yield from _pictures(section.blocks, section.sections)
