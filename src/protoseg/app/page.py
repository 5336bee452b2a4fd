"""The page of the app: one text that asks nobody but the app itself."""

from __future__ import annotations

from typing import NamedTuple

from protoseg.report.html import environment, inlined


class Page(NamedTuple):
    """Attributes: HTML; what it may do, for the header Content-Security-Policy."""

    text: str
    policy: str


def render() -> Page:
    """The page, which learns by its script what can be chosen."""
    templates = environment("protoseg.app")
    parts = inlined(templates, styles=("page.css", "app.css"), scripts=("app.js",))
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "style-src 'unsafe-inline'",
            f"script-src 'sha256-{parts['script_digest']}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return Page(templates.get_template("app.html").render(**parts), policy)
