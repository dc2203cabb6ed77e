"""The report as Markdown and as one HTML file that needs nothing else; see also page.html, page.css, page.js."""

import base64
import dataclasses
import html as escaping
import io
import itertools
import os
import pathlib
import re
import urllib.parse
from typing import Any

import numpy as np
from PIL import Image

from qsnet_jax import UserError

WIDEST = 1400  # pixels of an embedded picture; more only makes the file large


@dataclasses.dataclass
class Heading:
    text: str


@dataclasses.dataclass
class Text:
    """Markdown of one paragraph: **bold** and `code` only."""

    text: str


@dataclasses.dataclass
class Points:
    """Paragraphs as a list, each with the name of a mark in page.css (or none)."""

    entries: list[tuple[str, str]]


@dataclasses.dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclasses.dataclass
class Figure:
    path: pathlib.Path
    caption: str


@dataclasses.dataclass
class Plot:
    """A drawing as SVG for wide and for narrow windows, and the file that has it for Markdown."""

    wide: str
    narrow: str
    path: pathlib.Path
    caption: str


@dataclasses.dataclass
class Sliders:
    """Pairs of uint8 (H, W, 3) pictures, the second uncovered by dragging: [(before, after, caption), ...]."""

    pairs: list[tuple[np.ndarray, np.ndarray, str]]


def markdown(items: list[Any], base: pathlib.Path) -> str:
    """The same as text; figures as links relative to `base`. Sliders are left to the page."""
    parts: list[str] = []
    for item in items:
        if isinstance(item, Heading):
            parts.append(f'{"##" if parts else "#"} {item.text}')
        elif isinstance(item, Text):
            parts.append(item.text)
        elif isinstance(item, Points):
            parts.append('\n'.join(f'- {text}' for _, text in item.entries))
        elif isinstance(item, Table):
            lines = [item.columns, ['---'] * len(item.columns), *item.rows]
            escaped = ([_plain(cell) for cell in line] for line in lines)
            parts.append(f'### {item.title}\n\n' + '\n'.join(f'| {" | ".join(line)} |' for line in escaped))
        elif isinstance(item, (Figure, Plot)):
            place = urllib.parse.quote(os.fsencode(item.path.relative_to(base).as_posix()))
            parts.append(f'![{_plain(item.caption)}]({place})\n\n*{_plain(item.caption)}*')
    return '\n\n'.join(parts) + '\n'


def html(items: list[Any], style: str = '') -> str:
    """One page with everything inside it, which asks no network for anything; `style` is what its plots need."""
    body: list[str] = []
    contents: list[str] = []
    for number, item in enumerate(items):
        if isinstance(item, Heading):
            level = 'h2' if body else 'h1'
            contents += [f'<a href="#s{number}">{_text(item.text)}</a>'] if body else []
            body.append(f'<{level} id="s{number}">{_text(item.text)}</{level}>')
        else:
            body.append(_element(item, number))
    navigation = f'<nav aria-label="contents">{"".join(contents)}</nav>' if contents else ''
    here = pathlib.Path(__file__).parent
    page = (here / 'page.html').read_text()
    filled = {'STYLE': (here / 'page.css').read_text() + style, 'SCRIPT': (here / 'page.js').read_text()}
    filled['BODY'] = body[0] + navigation + '\n'.join(body[1:])
    return re.sub('STYLE|SCRIPT|BODY', lambda found: filled[found.group()], page)


def _element(item: Any, number: int) -> str:
    """Anything but a heading."""
    if isinstance(item, Text):
        return f'<p>{_text(item.text)}</p>'
    if isinstance(item, Points):
        entries = ''.join(f'<li class="{mark}">{_text(text)}</li>' for mark, text in item.entries)
        return f'<ul class="points">{entries}</ul>'
    if isinstance(item, Table):
        return _table(item, number)
    if isinstance(item, Plot):
        drawings = f'<div class="wide-only">{item.wide}</div><div class="narrow-only">{item.narrow}</div>'
        return f'<figure>{drawings}<figcaption>{_text(item.caption)}</figcaption></figure>'
    if isinstance(item, Figure):
        return _figure(item)
    return f'<div class="sliders">{"".join(_slider(*pair) for pair in item.pairs)}</div>'


def jpeg(image: np.ndarray) -> bytes:
    """A uint8 (H, W, 3) picture as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'JPEG', quality=88)
    return buffer.getvalue()


def _text(text: str) -> str:
    """**bold** and `code` of a paragraph."""
    out = escaping.escape(text)
    for mark, tag in (('**', 'b'), ('`', 'code')):
        pieces = out.split(mark)
        tags = itertools.cycle((f'<{tag}>', f'</{tag}>'))
        out = pieces[0] + ''.join(next(tags) + piece for piece in pieces[1:])
    return out


def _plain(text: str) -> str:
    """A cell of a Markdown table, in which nothing is markup."""
    return re.sub(r'([\\`*<&|\[\]])', r'\\\1', text.replace('\n', ' '))


def _table(table: Table, number: int) -> str:
    """Folded, with a field that filters it; roles are named because on a phone its parts are no table to CSS."""
    names = [escaping.escape(column) for column in table.columns]
    head = ''.join(
        f'<th role="columnheader" scope="col" aria-sort="none"><button type="button">{name}</button></th>'
        for name in names
    )
    rows = ''.join(
        '<tr role="row">' +
        ''.join(f'<td role="cell" data-name="{name}">{escaping.escape(cell)}</td>'
                for name, cell in zip(names, row, strict=True)) +
        '</tr>' for row in table.rows
    )  # fmt: skip
    title = escaping.escape(table.title)
    return (
        f'<details><summary><h3>{title}</h3> <span>{len(table.rows)} rows</span></summary>'
        f'<p class="tools"><label>Filter <input type="search" id="f{number}"></label>'
        f'<label class="narrow-only">Sort by <select><option value="">as it is</option>'
        f'{"".join(f"<option>{name}</option>" for name in names)}</select></label>'
        f'<span role="status"></span></p>'
        f'<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table role="table">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">{rows}</tbody></table></div>'
        '</details>'
    )


def _figure(figure: Figure) -> str:
    try:
        image = Image.open(figure.path).convert('RGB')
    except (OSError, SyntaxError) as error:
        raise UserError(f'{figure.path} cannot be read ({error}). Make it anew, or remove it.') from error
    kinds = ('JPEG',) if figure.path.suffix.lower() in ('.jpg', '.jpeg') else ('PNG', 'JPEG')  # of photos the second
    address = min((_address(image, kind) for kind in kinds), key=len)
    shown = escaping.escape(figure.caption)
    return (
        f'<figure><button type="button" class="zoom" aria-label="enlarge: {shown}">'
        f'<img src="{address}" alt="{shown}"></button><figcaption>{shown} '
        '<span class="narrow-only">(Tap to enlarge.)</span></figcaption></figure>'
    )


def _slider(first: np.ndarray, second: np.ndarray, caption: str) -> str:
    before, after = (_address(Image.fromarray(image), 'JPEG') for image in (first, second))
    shown = escaping.escape(caption)
    return (
        f'<figure><div class="slider"><img src="{after}" alt="restored">'
        f'<img class="before" src="{before}" alt="rainy"><i></i>'
        f'<input type="range" min="0" max="100" value="50" aria-label="{shown}"></div>'
        f'<figcaption>{shown} <button type="button" class="zoom-pair">enlarge</button></figcaption></figure>'
    )


def _address(image: Image.Image, kind: str) -> str:
    """The picture itself as an address."""
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    if kind == 'PNG':
        image = image.quantize(128)
    buffer = io.BytesIO()
    image.save(buffer, kind, **({'quality': 85} if kind == 'JPEG' else {'optimize': True}))
    return f'data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}'
