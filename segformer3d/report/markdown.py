"""A document as Markdown (CommonMark with tables), its pictures as files in a folder beside it.

All texts are escaped, so that what looks like markup in them is shown as it stands.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from segformer3d.report.document import (
    Block,
    Cell,
    Code,
    Column,
    Document,
    Facts,
    Gallery,
    Headline,
    Items,
    Link,
    Note,
    Paragraph,
    Picture,
    Section,
    Table,
    Text,
    Verbatim,
)

_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$!]|(?<![^\W_])_|_(?![^\W_])")
# What would begin a heading, a list or an underline at the start of a line, or be lost at the end of a heading.
_OPENING = re.compile(r"^(?=[-#+=])|^\d+(?=[.)](?: |$))|(?<!#)(?=#+$)")
_KINDS = {"warning": "Warning", "remark": "Note"}

Place = Callable[[Picture], str]


def to_markdown(document: Document, place: Place) -> str:
    """The Markdown, as text to be written in UTF-8; `place` says where a picture lies, relative to it."""
    head = (f"# {_line(document.title)}", f"*{_line(document.kind)}. {_line(document.subtitle)}*")
    parts = [*head, *_blocks(document.blocks, place)]
    for section in document.sections:
        parts += _section(section, place, level=2)
    return "\n\n".join([*parts, "---", _text(document.colophon)]) + "\n"


def _section(section: Section, place: Place, level: int) -> list[str]:
    parts = [f"{'#' * level} {_line(section.title)}", *_blocks(section.blocks, place)]
    for part in section.sections:
        parts += _section(part, place, level + 1)
    return parts


def _blocks(blocks: Iterable[Block], place: Place) -> list[str]:
    return [_block(block, place) for block in blocks]


def _block(block: Block, place: Place) -> str:  # noqa: PLR0911 - one for each kind
    match block:
        case Paragraph(text):
            return _start(_text(text))
        case Note(text, kind):
            return f"> **{_KINDS[kind]}.** {_text(text)}"
        case Items(items):
            return "\n".join(f"- {_start(_text(item))}" for item in items)
        case Facts(facts):
            return "\n".join(f"- {_line(term)}: {_text(what)}" for term, what in facts)
        case Headline(figures):
            return "\n".join(f"- {_line(f.name)}: **{_escaped(f.value)}** {_aside(f.detail)}".rstrip() for f in figures)
        case Verbatim(text):
            fence = _fence(text, at_least=3)
            return f"{fence}\n{text}\n{fence}"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block, place)
        case Gallery(pictures):
            return "\n\n".join(_picture(picture, place) for picture in pictures)


def _table(table: Table) -> str:
    lines = [
        _row([_line(column.name) for column in table.columns]),
        _row([_rule(column) for column in table.columns]),
        *(_row([_cell(cell) for cell in row]) for row in table.rows),
    ]
    parts = [f"**{_line(table.caption)}**", "\n".join(lines)]
    return "\n\n".join([*parts, _line(table.note)] if table.note else parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(column: Column) -> str:
    return "---:" if column.kind == "number" else "---"


def _cell(cell: Cell | str) -> str:
    whole = cell if isinstance(cell, Cell) else Cell(cell)
    text = _text(_barred(whole.text))
    parts = (f"**{text}**" if whole.strong and text else text, _aside(whole.detail))
    return " ".join(part for part in parts if part)


def _aside(text: str) -> str:
    return f"({_escaped(text).strip()})" if text else ""


def _picture(picture: Picture, place: Place) -> str:
    return f"![{_line(picture.alternative)}](<{place(picture)}>)\n\n*{_line(picture.caption)}*"


def _text(text: Text) -> str:
    return "".join(_span(span) for span in _spans(text)).strip()


def _spans(text: Text) -> tuple[str | Code | Link, ...]:
    return (text,) if isinstance(text, str) else text


def _barred(text: Text) -> Text:
    """A table's bars end a cell even in code, where nothing else is escaped."""
    return tuple(Code(s.text.replace("|", "\\|")) if isinstance(s, Code) else s for s in _spans(text))


def _span(span: str | Code | Link) -> str:
    match span:
        case str():
            return _escaped(span)
        case Code(text):
            return _code(text)
        case Link(text, url):
            return f"[{_line(text)}](<{url}>)"


def _code(text: str) -> str:
    fence, line = _fence(text), " ".join(text.split())
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _fence(text: str, at_least: int = 1) -> str:
    """More backticks than stand in a row within the text."""
    return "`" * max(at_least, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


def _line(text: str) -> str:
    return _start(_escaped(text).strip())


def _start(line: str) -> str:
    return _OPENING.sub(r"\g<0>\\", line)


def _escaped(text: str) -> str:
    """One line, whatever the text holds, with a backslash before what Markdown would take for its own."""
    return _SPECIAL.sub(r"\\\g<0>", re.sub(r"\s+", " ", text))
