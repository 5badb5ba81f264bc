"""Oracles: Python's HTML parser and markdown-it read back what was written; whatever a text holds, it is shown."""

import base64
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from segformer3d.report.document import (
    Cell,
    Code,
    Column,
    Document,
    Facts,
    Figure,
    Gallery,
    Headline,
    Items,
    Link,
    Note,
    Paragraph,
    Picture,
    Section,
    Table,
    Verbatim,
    pictures_of,
)
from segformer3d.report.html import POLICY, to_html
from segformer3d.report.markdown import to_markdown
from segformer3d.report.writing import place, write_report

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img", "source", "hr", "br"}


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and the text of each, and that all of them are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert self._open == [], "elements were left open"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append((tag, []))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        opened, parts = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"
        self.texts.setdefault(tag, []).append("".join(parts))
        if self._open:
            self._open[-1][1].extend(parts)

    def handle_data(self, data):
        if self._open:
            self._open[-1][1].append(data)

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def shown(document: Document) -> Page:
    """The Markdown twin as a reader's program shows it, HTML in it allowed."""
    return Page(MarkdownIt("commonmark").enable("table").render(to_markdown(document, place)))


def around(*blocks, title="A title", sections=()) -> Document:
    return Document(title, "A kind", "a subtitle", (), (Section("First", blocks, sections),), "the end")


def one_line(text: str) -> str:
    return " ".join(text.split())


# Anything that a file name may hold and that a page can show.
SHOWN = st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp", "Cn"), include_characters=" ")
MARKUP = st.sampled_from("ab1 \\`*_{}[]()#+-.!|~<>&$=:;/'\"")
NASTY = ("<script>alert(1)</script>", "a|b", "*x*", "[a](https://b)", "# a #", "1. a", "&lt;", "![a](b)", "a\\|b")
TEXTS = st.one_of(st.text(SHOWN), st.text(MARKUP), st.sampled_from(NASTY)).map(one_line).filter(bool)


@given(TEXTS)
def test_any_text_is_shown_as_it_stands(text):
    table = Table(text, (Column("case", "text"), Column(text)), ((text, Cell(text, text, strong=True)),), text)
    document = around(Paragraph(text), Items((text,)), Note(text), Facts(((text, text),)), table, title=text)
    for page in (Page(to_html(document)), shown(document)):
        assert "script" not in page.tags()
        assert one_line(page.texts["h1"][-1]) == text
        cells = [one_line(cell) for tag in ("td", "th") for cell in page.texts[tag]]
        assert text in cells
        assert {f"{text} {text}", f"{text} ({text})"} & set(cells)
        assert any(one_line(paragraph) == text for paragraph in page.texts["p"])
        assert text in {one_line(item) for tag in ("li",) for item in page.texts[tag]}


@given(TEXTS)
def test_a_name_in_code_is_shown_as_it_stands(text):
    document = around(
        Paragraph(("see ", Code(text))), Verbatim(text), Table("t", (Column("a"),), ((Cell((Code(text),)),),))
    )
    for page in (Page(to_html(document)), shown(document)):
        assert [one_line(code) for code in page.texts["code"]].count(text) >= 2
        assert any(block.strip("\n") == text for block in page.texts["pre"])


def test_a_case_that_is_named_like_a_script_runs_nothing():
    text = to_html(around(Paragraph(NASTY[0])))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script" not in text


def test_the_page_needs_nothing_and_may_load_nothing():
    page = Page(to_html(around(Picture("p", PNG, "seen", "caption", PNG))))
    meta = [attributes for tag, attributes in page.elements if tag == "meta"]
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in meta
    assert "script" not in POLICY
    sources = [a.get("src") or a.get("srcset") for tag, a in page.elements if tag in ("img", "source")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert page.tags().isdisjoint({"script", "link", "iframe", "object", "embed"})
    assert "url(" not in page.texts["style"][0]
    assert "@import" not in page.texts["style"][0]


def test_headings_sections_and_contents_agree():
    document = around(Paragraph("text"), sections=(Section("Inner", (Paragraph("deep"),)),))
    page = Page(to_html(document))
    assert (page.texts["h1"], page.texts["h2"], page.texts["h3"]) == (["A title"], ["First"], ["Inner"])
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert links == {"#section-1"}
    assert {link[1:] for link in links} <= anchors
    assert "## First\n\ntext\n\n### Inner\n\ndeep" in to_markdown(document, place)


def test_a_table_has_a_caption_headings_and_numbers_flush_right():
    table = Table("Scores", (Column("case", "text"), Column("Dice")), (("a", Cell("0.9", "0.8 to 1.0")),), "A note.")
    page = Page(to_html(around(table)))
    assert page.texts["caption"] == ["Scores"]
    assert [a.get("scope") for tag, a in page.elements if tag == "th"] == ["col", "col", "row"]
    assert ("td", {"class": "number"}) in page.elements
    text = to_markdown(around(table), place)
    assert "**Scores**\n\n| case | Dice |\n| --- | ---: |\n| a | 0.9 (0.8 to 1.0) |\n\nA note." in text


def test_a_row_of_another_length_is_a_mistake_of_the_program():
    with pytest.raises(ValueError, match="2 columns, a row 1 cells"):
        Table("t", (Column("a"), Column("b")), (("x",),))


def test_every_picture_has_words_for_those_who_cannot_see_it():
    document = around(Picture("one", PNG, 'a "quoted" one', "c"), Gallery((Picture("two", PNG, "another", "d"),)))
    page = Page(to_html(document))
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == ['a "quoted" one', "another"]
    assert [picture.name for picture in pictures_of(document)] == ["one", "two"]


def test_key_numbers_facts_and_links():
    document = around(
        Headline((Figure("mean Dice", "0.91", "0.90 to 0.92"),)),
        Facts((("model", (Code("m.safetensors"),)),)),
        Paragraph(("see ", Link("there", "https://example.org/?a=1&b=2"))),
    )
    page = Page(to_html(document))
    assert page.texts["dd"][0] == "0.91 0.90 to 0.92"
    assert ("a", {"href": "https://example.org/?a=1&b=2"}) in page.elements
    assert "- mean Dice: **0.91** (0.90 to 0.92)" in to_markdown(document, place)
    assert ("a", {"href": "https://example.org/?a=1&b=2"}) in shown(document).elements


def test_the_twin_shows_the_pictures_that_lie_beside_it(tmp_path):
    page = write_report(around(Picture("p", PNG, "seen", "caption")), tmp_path)
    assert page == tmp_path / "report.html"
    found = re.findall(r"!\[seen\]\(<([^>]+)>\)", (tmp_path / "report.md").read_text())
    assert [(tmp_path / name).read_bytes() for name in found] == [PNG]
