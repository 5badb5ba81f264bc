"""A document as one HTML page that needs nothing else: pictures and style are inside, and there is no script.

The page works offline by construction: its content security policy forbids the browser to load or run anything. All
texts are escaped. Screens of any width, light and dark ones and paper are served by `style.css`.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

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

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = Path(__file__).with_name("style.css")


def to_html(document: Document) -> str:
    """The page, as text to be written in UTF-8."""
    contents, body = _contents(document.sections), _sections(document.sections, level=2)
    return _PAGE.format(
        policy=POLICY,
        title=html.escape(document.title),
        style=_STYLE.read_text(encoding="utf-8"),
        kind=html.escape(document.kind),
        subtitle=html.escape(document.subtitle),
        opening=_blocks(document.blocks),
        contents=contents,
        body=body,
        colophon=_text(document.colophon),
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<p class="kind">{kind}</p>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
</header>
{contents}<main>
{opening}{body}</main>
<footer><p>{colophon}</p></footer>
</body>
</html>
"""


def _contents(sections: Sequence[Section]) -> str:
    lines = "".join(f'<li><a href="#{_anchor((n,))}">{html.escape(s.title)}</a></li>\n' for n, s in _counted(sections))
    return f'<nav aria-label="Contents">\n<ol>\n{lines}</ol>\n</nav>\n'


def _counted(sections: Sequence[Section]) -> Iterable[tuple[int, Section]]:
    return enumerate(sections, start=1)


def _anchor(place: Sequence[int]) -> str:
    return "section-" + "-".join(map(str, place))


def _sections(sections: Sequence[Section], level: int, place: tuple[int, ...] = ()) -> str:
    return "".join(_section(section, level, (*place, number)) for number, section in _counted(sections))


def _section(section: Section, level: int, place: tuple[int, ...]) -> str:
    heading = f'<h{level} id="{_anchor(place)}">{html.escape(section.title)}</h{level}>\n'
    within = _blocks(section.blocks) + _sections(section.sections, level + 1, place)
    return f'<section aria-labelledby="{_anchor(place)}">\n{heading}{within}</section>\n'


def _blocks(blocks: Sequence[Block]) -> str:
    return "".join(_block(block) for block in blocks)


def _block(block: Block) -> str:  # noqa: PLR0911 - one for each kind
    match block:
        case Paragraph(text):
            return f"<p>{_text(text)}</p>\n"
        case Note(text, kind):
            return f'<aside class="{kind}"><p>{_text(text)}</p></aside>\n'
        case Items(items):
            return "<ul>\n" + "".join(f"<li>{_text(item)}</li>\n" for item in items) + "</ul>\n"
        case Facts(facts):
            pairs = "".join(f"<div><dt>{html.escape(t)}</dt><dd>{_text(what)}</dd></div>\n" for t, what in facts)
            return f'<dl class="facts">\n{pairs}</dl>\n'
        case Headline():
            return _headline(block)
        case Verbatim(text):
            return f'<pre tabindex="0">{html.escape(text)}</pre>\n'
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Gallery(pictures):
            return '<div class="gallery">\n' + "".join(map(_picture, pictures)) + "</div>\n"


def _headline(block: Headline) -> str:
    figures = "".join(
        f"<div><dt>{html.escape(figure.name)}</dt><dd><strong>{html.escape(figure.value)}</strong>"
        f"{_detail(figure.detail)}</dd></div>\n"
        for figure in block.figures
    )
    return f'<dl class="headline">\n{figures}</dl>\n'


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col" class="{c.kind}">{html.escape(c.name)}</th>' for c in table.columns)
    rows = "".join(f"<tr>{_row(row, table.columns)}</tr>\n" for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>\n' if table.note else ""
    caption = html.escape(table.caption)
    whole = f"<caption>{caption}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n"
    # What is wider than the screen is scrolled, also with the keyboard, while the page stays where it is.
    frame = f'<div class="table" role="region" aria-label="{caption}" tabindex="0">\n'
    return f"{frame}<table>\n{whole}</table>\n</div>\n{note}"


def _row(row: Sequence[Cell | str], columns: Sequence[Column]) -> str:
    first, *others = zip(row, columns, strict=True)
    heading, cells = _content(first[0]), "".join(f'<td class="{c.kind}">{_content(cell)}</td>' for cell, c in others)
    return f'<th scope="row" class="{first[1].kind}">{heading}</th>{cells}'


def _content(cell: Cell | str) -> str:
    whole = cell if isinstance(cell, Cell) else Cell(cell)
    text = f"<strong>{_text(whole.text)}</strong>" if whole.strong else _text(whole.text)
    return text + _detail(whole.detail)


def _detail(text: str) -> str:
    return f" <small>{html.escape(text)}</small>" if text else ""


def _picture(picture: Picture) -> str:
    image = f'<img src="{_data(picture.content)}" alt="{html.escape(picture.alternative)}">'
    if picture.dark is not None:
        dark = f'<source srcset="{_data(picture.dark)}" media="screen and (prefers-color-scheme: dark)">'
        image = f"<picture>{dark}{image}</picture>"
    return f"<figure>{image}<figcaption>{html.escape(picture.caption)}</figcaption></figure>\n"


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _text(text: Text) -> str:
    return "".join(_span(span) for span in ((text,) if isinstance(text, str) else text))


def _span(span: str | Code | Link) -> str:
    match span:
        case str():
            return html.escape(span)
        case Code(text):
            return f"<code>{html.escape(text)}</code>"
        case Link(text, url):
            return f'<a href="{html.escape(url)}">{html.escape(text)}</a>'
