"""Run by mkdocs: ``::`` before a literal block of a docstring is a mark of another language than Markdown."""


def on_page_content(html: str, **_: object) -> str:
    """A page without these marks."""
    return html.replace("<p>::</p>\n", "")
