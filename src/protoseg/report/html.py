"""What the pages of protoseg share: templates, a policy that forbids requests, pictures inside the page."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

_KINDS = {".jpg": "jpeg", ".png": "png"}
_UNBROKEN = re.compile(r"--[a-z](?:[\w.-]*\w)?|\d[\d.]* %")


def environment(package: str = "protoseg.report") -> Environment:
    """Templates of a package, and those of the report beside them. All text is escaped."""
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in dict.fromkeys((package, "protoseg.report"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["unbroken"] = unbroken
    return templates


def inlined(environment: Environment, *, styles: tuple[str, ...], scripts: tuple[str, ...]) -> dict[str, Any]:
    """Style sheets and scripts of a page, with the hash by which its policy (`head.html`) knows the script.

    Args:
        environment: that holds the files.
        styles, scripts: names of files, in their order.
    """
    style, script = ("".join(_text(environment, name) for name in names) for names in (styles, scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": Markup(style), "script": Markup(script), "script_digest": digest}


def percent(share: float | None) -> str:
    """A share in percent; `absent` for a class that is not there."""
    return "absent" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def unbroken(text: str) -> Markup:
    """A sentence whose options and shares stay on one line: browsers break `--option` after its hyphens, and `95 %` too.

    By style and not by other characters, so that what is copied from the page is what a terminal takes.
    """
    return Markup(_UNBROKEN.sub(r'<span class="unbroken">\g<0></span>', str(escape(text))))


def css_color(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def file_uri(path: Path) -> str:
    """A picture file inside the page."""
    return data_uri(path.read_bytes(), _KINDS[path.suffix])


def data_uri(content: bytes, kind: str) -> str:
    """A picture inside the page. Args: the file's bytes; `jpeg` or `png`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _text(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
