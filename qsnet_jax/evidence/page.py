"""The report as Markdown and as one HTML file that needs nothing else: tables sort, sliders slide, pictures enlarge."""

import base64
import dataclasses
import html as escaping
import io
import itertools
import pathlib
import re
from typing import Any

import numpy as np
from PIL import Image

WIDEST = 1100  # pixels of an embedded picture; more only makes the file large


@dataclasses.dataclass
class Heading:
    text: str


@dataclasses.dataclass
class Text:
    """Markdown of one paragraph: **bold** and `code` only."""

    text: str


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
class Sliders:
    """Pairs of uint8 (H, W, 3) pictures, the second uncovered by dragging: [(before, after, caption), ...]."""

    pairs: list[tuple[np.ndarray, np.ndarray, str]]


def markdown(items: list[Any], base: pathlib.Path) -> str:
    """README text; figures as links relative to `base`. Sliders are left to the page."""
    parts: list[str] = []
    for item in items:
        if isinstance(item, Heading):
            parts.append(f'{"##" if parts else "#"} {item.text}')
        elif isinstance(item, Text):
            parts.append(item.text)
        elif isinstance(item, Table):
            lines = [item.columns, ['---'] * len(item.columns), *item.rows]
            escaped = ([_plain(cell) for cell in line] for line in lines)
            parts.append(f'### {item.title}\n\n' + '\n'.join(f'| {" | ".join(line)} |' for line in escaped))
        elif isinstance(item, Figure):
            parts.append(f'![{item.caption}]({item.path.relative_to(base).as_posix()})\n\n*{item.caption}*')
    return '\n\n'.join(parts) + '\n'


def html(items: list[Any], base: pathlib.Path) -> str:
    """One page with everything inside it, which asks no network for anything."""
    body: list[str] = []
    contents: list[str] = []
    for number, item in enumerate(items):
        if isinstance(item, Heading):
            level = 'h2' if body else 'h1'
            contents += [f'<a href="#s{number}">{_text(item.text)}</a>'] if body else []
            body.append(f'<{level} id="s{number}">{_text(item.text)}</{level}>')
        elif isinstance(item, Text):
            body.append(f'<p>{_text(item.text)}</p>')
        elif isinstance(item, Table):
            body.append(_table(item))
        elif isinstance(item, Figure):
            image = Image.open(item.path).convert('RGB')
            is_photo = item.path.suffix.lower() in ('.jpg', '.jpeg')
            body.append(_figure(_address(image, 'JPEG' if is_photo else 'PNG'), item.caption))
        else:
            body.append(f'<div class="sliders">{"".join(_slider(*pair) for pair in item.pairs)}</div>')
    navigation = f'<nav>{"".join(contents)}</nav>' if contents else ''
    return _PAGE.replace('BODY', body[0] + navigation + '\n'.join(body[1:]))


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
    return re.sub(r'([\\`*<&|\[])', r'\\\1', text.replace('\n', ' '))


def _table(table: Table) -> str:
    head = ''.join(
        f'<th aria-sort="none"><button type="button">{escaping.escape(column)}</button></th>'
        for column in table.columns
    )
    rows = ''.join(f'<tr>{"".join(f"<td>{escaping.escape(cell)}</td>" for cell in row)}</tr>' for row in table.rows)
    return (
        f'<h3>{escaping.escape(table.title)}</h3><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>'
    )


def _figure(address: str, caption: str) -> str:
    shown = escaping.escape(caption)
    return (
        f'<figure><img class="zoom" src="{address}" alt="{shown}" tabindex="0" role="button">'
        f'<figcaption>{shown}</figcaption></figure>'
    )


def _slider(first: np.ndarray, second: np.ndarray, caption: str) -> str:
    before, after = (_address(Image.fromarray(image), 'JPEG') for image in (first, second))
    shown = escaping.escape(caption)
    return (
        f'<figure><div class="slider"><img class="zoom" src="{after}" alt="restored">'
        f'<img class="before" src="{before}" alt="rainy"><i></i>'
        f'<input type="range" min="0" max="100" value="50" aria-label="{shown}"></div>'
        f'<figcaption>{shown}</figcaption></figure>'
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


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>QSNet: reproduction report</title>
<style>
:root { color-scheme: light dark; --line: #8884; --accent: #2a78b8; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 2px solid var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
a { color: var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { min-width: 4rem; }
tbody tr:hover { background: #8882; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: ' \\25B2'; }
th[aria-sort=descending] button::after { content: ' \\25BC'; }
figure { margin: 1.5rem 0; }
figcaption { font-size: .85rem; opacity: .8; }
img { max-width: 100%; height: auto; display: block; background: #fff; }
.zoom { cursor: zoom-in; }
.sliders { display: flex; flex-wrap: wrap; gap: 1rem; }
.sliders figure { margin: 0; flex: 1 1 20rem; }
.slider { position: relative; display: inline-block; max-width: 100%; --at: 50%; }
.slider .before { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none;
 clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.slider i { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; background: #fff;
 pointer-events: none; }
.slider input { position: absolute; left: 0; right: 0; bottom: .5rem; width: 100%; margin: 0; height: 2rem;
 cursor: ew-resize; }
dialog { border: 0; padding: 0; max-width: none; max-height: none; width: 100vw; height: 100vh; overflow: auto;
 background: #000d; }
dialog img { max-width: none; min-width: 100%; cursor: zoom-out; image-rendering: auto; }
</style>
<body>
BODY
<dialog aria-label="enlarged picture"><img alt="" tabindex="0"></dialog>
<script>
'use strict';
const key = text => {
  const number = text.match(/^[+-]?[0-9]*\\.?[0-9]+(e[+-]?[0-9]+)?(?![0-9a-z-])/i);  // no dates, no hashes
  return number ? parseFloat(number[0]) : null;
};
for (const head of document.querySelectorAll('th')) {
  head.firstElementChild.addEventListener('click', () => {
    const body = head.closest('table').tBodies[0], rows = [...body.rows], at = head.cellIndex;
    const falling = head.getAttribute('aria-sort') === 'ascending';
    for (const other of head.parentNode.children) other.setAttribute('aria-sort', 'none');
    head.setAttribute('aria-sort', falling ? 'descending' : 'ascending');
    const compare = (a, b) => {
      const [x, y] = [a, b].map(row => row.cells[at].textContent.trim()), [m, n] = [key(x), key(y)];
      if ((m === null) !== (n === null)) return m === null ? 1 : -1;  // what has no number comes last, either way
      return (falling ? -1 : 1) * (m === null ? x.localeCompare(y) : m - n);
    };
    rows.sort(compare);
    body.append(...rows);
  });
}
for (const input of document.querySelectorAll('.slider input'))
  input.addEventListener('input', () => input.parentNode.style.setProperty('--at', input.value + '%'));
const dialog = document.querySelector('dialog');
const enlarge = image => { dialog.firstElementChild.src = image.src; dialog.showModal(); };
for (const image of document.querySelectorAll('.zoom')) {
  image.addEventListener('click', () => enlarge(image));
  image.addEventListener('keydown', event => { if (event.key === 'Enter') enlarge(image); });
}
dialog.addEventListener('click', () => dialog.close());
</script>
"""
