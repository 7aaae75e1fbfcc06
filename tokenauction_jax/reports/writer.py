"""Self-contained pages: a template filled with data, and figures beside it."""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from tokenauction_jax import files
from tokenauction_jax.files import StoreError
from tokenauction_jax.outside import visible
from tokenauction_jax.reports.drawing import COLOURS, Chart, save


def write_page(
    folder: pathlib.Path, charts: Sequence[Chart], template: str, **content: Any
) -> pathlib.Path:
    """Writes `index.html`, which needs no other file, and the figures as SVG and PNG.

    The folder appears whole or not at all, in place of an earlier report.

    Args:
      folder: Where to write; its parent must exist.
      charts: The figures, which the template is given with their SVG.
      template: The name of its file.
      **content: What else it is filled with.

    Returns:
      The page.

    Raises:
      StoreError: If it cannot be written, or `folder` holds anything else.
    """
    _check_replaceable(folder)
    try:
        with files.write_folder(folder, replace=True) as part:
            for chart in charts:
                save(chart, part)
            drawn = [(chart, Markup(_inline(part, chart))) for chart in charts]
            text = render(template, charts=drawn, **content)
            files.write(part / "index.html", text)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {files.reason(error)}") from None
    return folder / "index.html"


def render(template: str, **content: Any) -> str:
    """A page that needs no other file.

    Args:
      template: The name of its file.
      **content: What it is filled with.
    """
    colours = [_rgb(colour) for colour in COLOURS]
    return _environment().get_template(template).render(colours=colours, **content)


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Every value of nested mappings by its dotted name, as text."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{name}", str(value)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _check_replaceable(folder: pathlib.Path) -> None:
    """Nothing but an earlier report is ever replaced."""
    if not files.exists(folder):
        files.check_new(folder)
        return
    if folder.is_symlink() or not folder.is_dir():
        raise StoreError(f"{folder} is not a folder: choose another one")
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {files.reason(error)}") from None
    ours = all(
        name.endswith((".svg", ".png")) or name == "index.html" for name in names
    )
    if names and not (ours and "index.html" in names):
        raise StoreError(f"{folder} holds other files than a report: choose another")


def _inline(folder: pathlib.Path, chart: Chart) -> str:
    """The SVG element, its ids made different from those of the other figures."""
    svg = (folder / f"{chart.name}.svg").read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub("<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\1{chart.name}-", svg)
    return svg.replace(
        "<svg ", f'<svg role="img" aria-label="{escape(visible(chart.title))}" ', 1
    )


def _shown(value: Any) -> Any:
    """What the template is filled with; texts keep their newlines."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return visible(value, keep="\n") if is_text else value


def _rgb(colour: str) -> str:
    """`#rrggbb` as the numbers that CSS takes."""
    return " ".join(str(byte) for byte in bytes.fromhex(colour[1:]))
