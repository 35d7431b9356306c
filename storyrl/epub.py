"""A story as an EPUB 3 book of one chapter, enough for e-readers. What it leaves out: covers, fonts, styles."""

import io
import uuid
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from storyrl.manuscript import clean

_CONTAINER = """<?xml version="1.0" encoding="UTF-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="story.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""
_PACKAGE = """<?xml version="1.0" encoding="UTF-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">urn:uuid:{identifier}</dc:identifier>
<dc:title>{title}</dc:title>
<dc:language>{language}</dc:language>
<meta property="dcterms:modified">{modified}</meta>
</metadata>
<manifest>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="story" href="story.xhtml" media-type="application/xhtml+xml"/>
</manifest>
<spine><itemref idref="story"/></spine>
</package>
"""
_PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">
<head><title>{title}</title></head>
<body>
{body}
</body>
</html>
"""


def to_epub(title: str, paragraphs: Sequence[str], language: str = "en") -> bytes:
    """The book as a zip file; the same text has the same identifier."""
    title = escape(clean(title) or "A story")
    texts = [f"<p>{escape(clean(text))}</p>" for text in paragraphs]
    story = _PAGE.format(title=title, body="\n".join([f"<h1>{title}</h1>", *texts]))
    contents = f'<nav epub:type="toc"><ol><li><a href="story.xhtml">{title}</a></li></ol></nav>'
    package = _PACKAGE.format(
        identifier=uuid.uuid5(uuid.NAMESPACE_OID, story),
        title=title,
        language=language,
        modified=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr("META-INF/container.xml", _CONTAINER)
        archive.writestr("story.opf", package)
        archive.writestr("nav.xhtml", _PAGE.format(title=title, body=contents))
        archive.writestr("story.xhtml", story)
    return book.getvalue()
