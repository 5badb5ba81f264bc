"""A report on disk: `report.html`, `report.md`, and the pictures that the Markdown shows in `report-pictures/`."""

from pathlib import Path

from segformer3d.files import write_bytes, write_text
from segformer3d.report.document import Document, Picture, pictures_of
from segformer3d.report.html import to_html
from segformer3d.report.markdown import to_markdown

HTML, MARKDOWN, PICTURES = "report.html", "report.md", "report-pictures"


def write_report(document: Document, folder: Path) -> Path:
    """Write a document into a folder, and return the path of its page.

    Raises:
        StorageError: the folder cannot be written.
    """
    for picture in pictures_of(document):
        write_bytes(folder / place(picture), picture.content)
    write_text(folder / MARKDOWN, to_markdown(document, place))
    write_text(folder / HTML, to_html(document))
    return folder / HTML


def place(picture: Picture) -> str:
    """Where a picture lies, relative to the Markdown."""
    return f"{PICTURES}/{picture.name}.png"
