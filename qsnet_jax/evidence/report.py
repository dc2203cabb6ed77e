"""The reproduction report: verdicts, plots, and tables beside the paper's, as one page and as Markdown.

Numbers come from rows alone. Everything is one list of headings, tables and figures that `page` renders twice.
"""

import collections
import contextlib
import os
import pathlib
import re
import tempfile
from typing import Any

from qsnet_jax import UserError, provenance, spelling, storage
from qsnet_jax.evidence import claims as claims_
from qsnet_jax.evidence import figure_items, forest, page, parts, pictures, scatter, tables
from qsnet_jax.evidence import rows as rows_
from qsnet_jax.evidence.verdicts import Claim

TITLES = ('QSNet: what could be reproduced', 'Reproduction report')  # of the report now and before


def report(results: pathlib.Path) -> None:
    """Reads RESULTS/{rows,sparsity,bench}; writes RESULTS/{README.md,tables.md,report.html} and figures.

    Raises UserError for rows without provenance, for runs of one study that differ in more than their variants, and
    where a file of such a name is no report.
    """
    for name in ('README.md', 'tables.md', 'report.html', 'figures/verdicts.svg', 'figures/speed_and_quality.svg'):
        _refuse_foreign(results / name)
    rows = rows_.load(results)
    drawn = ['scales.jpg', *(f'curves-{size}.png' for size in rows_.sizes(rows))]
    drawn += ['release.png'] * any(rows_.is_released(row) and row['sets'] for row in rows)
    mine = [results / 'figures' / name for name in drawn]
    readme, plot = results / 'README.md', results / 'figures' / 'verdicts.svg'  # by which they are known as ours
    provenance.claim_beside(mine, plot if plot.exists() else readme, 'name another --results')
    places = [folder / 'paper.json' for folder in (results, pathlib.Path(__file__).parents[2] / 'results')]
    place = next((each for each in places if each.exists()), None)
    if place is None:
        raise UserError(f"The paper's figures are missing: {places[0]}, which comes with the repository.")
    paper = storage.read_json(place, remedy='Bring back the one that comes with the repository.')
    if not readme.exists():  # also after an interruption
        storage.write_bytes(readme, f'# {TITLES[0]}\n\n{_UNFINISHED}\n'.encode())
    try:
        made = _make(rows, paper, results)
    except figure_items.SLIPS as error:
        if isinstance(error, UserError):
            raise
        remedy = 'Make the row anew, or remove it.'
        raise figure_items.senseless(_culprit(rows, paper), error, remedy) from error
    for name, text in made.items():
        storage.write_bytes(results / name, text.encode(errors=spelling.ESCAPED))
    print(spelling.shown(f'{len(rows)} rows: README.md, tables.md and report.html in {results}'))


def _refuse_foreign(path: pathlib.Path) -> None:
    """Raises UserError for a file that no report wrote and that this one would replace."""
    if not os.path.lexists(path):
        return
    begins = {'.html': r'<h1[^>]*>({})<', '.svg': r'\A<svg [^>]*class="plot"', '.md': r'\A# ({})\n'}[path.suffix]
    text = path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''
    if not re.search(begins.format('|'.join(TITLES)), text):
        raise UserError(
            f'{path} is not of this program, and the report would replace it. Move it, or name another --results.'
        )


def _culprit(rows: rows_.Rows, paper: dict[str, Any]) -> str:
    """The row without which the report can be made."""
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            with contextlib.suppress(*figure_items.SLIPS):
                _make([each for each in rows if each is not row], paper, pathlib.Path(folder))
                return row['file']
    return 'paper.json, or more than one row,'


def _make(rows: rows_.Rows, paper: dict[str, Any], results: pathlib.Path) -> dict[str, str]:
    """The texts of the report by their names in RESULTS; pictures are written."""
    found, others = claims_.collect(rows, paper), claims_.others(rows, paper)
    counts = claims_.counts(found, others, rows)
    items = [*opening(found, others, counts, results), *details(rows, paper, results)]
    return {
        'figures/verdicts.svg': forest.draw(found, True, is_alone=True),
        'README.md': overview(found, counts),
        'tables.md': page.markdown([item for item in items if not isinstance(item, page.Sliders)], results),
        'report.html': page.html(items, forest.STYLE),
    }


def opening(found: list[Claim], others: page.Table, counts: list[str], results: pathlib.Path) -> list[Any]:
    """What everybody should see: the plot, a sentence for every claim, and the tables of verdicts."""
    full = [claim for claim in found if claim.size == 'full']
    reduced = [claim for claim in found if claim.size != 'full']
    plot = page.Plot(forest.draw(found, True), forest.draw(found, False), results / 'figures' / 'verdicts.svg', _PLOT)
    reasons = claims_.shared_reasons(found)
    sentences = [(_kind(same), claims_.sentence(same, reasons)) for same in claims_.by_text(found)]
    top = page.Text(_SHORT.format(standing=standing(found)))
    items: list[Any] = [page.Heading(TITLES[0]), top, *([plot] if found else [])]
    items += [page.Text(line) for line in counts]
    if found:
        items += [page.Text(_MEANINGS), page.Heading('Verdicts in words'), page.Points(sentences)]
    items += [
        page.Text(f'At {size} size {sample} counts for none of them: {why}.') for (size, sample), why in reasons.items()
    ]
    if full:
        items.append(claims_.table(full, 'Verdicts at full size'))
    if reduced:
        items.append(claims_.table(reduced, 'Verdicts at reduced size'))
    return [*items, others, page.Text(_RULES)]


def _kind(same: list[Claim]) -> str:
    """The mark of a claim over several sets: that of all of them, or none."""
    kinds = {claim.verdict.kind for claim in same}
    return kinds.pop() if len(kinds) == 1 else ''


def details(rows: rows_.Rows, paper: dict[str, Any], results: pathlib.Path) -> list[Any]:
    """Pictures, what ships, and every table."""
    items = [
        *pictures.items(results),
        *figure_items.items(results),
        *_speed_and_quality(rows, results),
        *parts.released_items(rows, results),
    ]
    items += [page.Heading('Table 1: scores'), tables.table_1(rows, paper), tables.evaluations(rows)]
    items.append(tables.in_pairs(rows))
    for size in rows_.sizes(rows):
        items += parts.studies_items(rows_.by_variant(rows, size), size, paper, results)
    failed = [row for row in rows if 'failed' in row]
    if failed:
        cells = [[rows_.variant_of(row), str(row['seed']), row['size'], row['failed']] for row in failed]
        items.append(page.Table('Runs that failed', ['variant', 'seed', 'size', 'why'], cells))
    items += parts.speed_items(rows, paper, results) + parts.sparsity_items(rows, results)
    items += parts.beside_torch_items(rows, results)
    items += [page.Heading('Rows'), tables.provenance(rows)]
    return [item for item in items if item is not None]


def _speed_and_quality(rows: rows_.Rows, results: pathlib.Path) -> list[Any]:
    """The scatter plot of what ships and its table."""
    found = scatter.points(rows, parts.included_names(rows))
    if not found:
        return []
    path = results / 'figures' / 'speed_and_quality.svg'
    storage.write_bytes(path, scatter.draw(found, True, is_alone=True).encode(errors=spelling.ESCAPED))
    plot = page.Plot(scatter.draw(found, True), scatter.draw(found, False), path, _SCATTER)
    return [page.Heading('Speed and quality of what ships'), plot, scatter.table(found)]


def overview(found: list[Claim], counts: list[str]) -> str:
    """README.md of the results: the plot, fifteen lines, and where the rest is."""
    return _OVERVIEW.format(
        title=TITLES[0],
        plot=_FOREST.format(caption=_PLOT) if found else _NO_CLAIMS,
        counts='\n'.join(f'- {line}' for line in counts),
        full=standing(found),
    )


def standing(found: list[Claim]) -> str:
    """What the runs of the paper's own network and recipe say, in a sentence."""
    kinds = collections.Counter(claim.verdict.kind for claim in found if claim.size == 'full')
    full = ', '.join(f'{kinds[kind]} {words}' for kind, words in forest.KINDS.items() if kinds[kind])
    return f'At full size: {full}.' if full else _NO_FULL_SIZE


_UNFINISHED = 'This report was not finished; `--mode=report` makes it.'
_NO_FULL_SIZE = "No run at full size yet: nothing here confirms or refutes the paper's numbers."
_SHORT = (
    'QSNet takes rain streaks out of a photo. This page holds what its paper claims against our own runs. '
    '**{standing}** Only the network and recipe of the paper (full size) speak of the paper; those of a reduced size, '
    'trained for minutes, speak of themselves. Each line is a claim on one of our sets: the triangle is what the '
    'paper reports, the mark is what our runs gave.'
)
_PLOT = (
    'Gain of PSNR (rgb), in dB, of what each claim says is better. In brackets the number of images, and behind them '
    "the test of the paper that our set stands for. Triangles: the paper's effect. Marks: ours; thick lines: 95 % "
    'interval over seeds and scenes; thin lines: the same corrected for the number of claims of its table (Holm), by '
    'which the verdict is made. An arrow: the line, or the mark beside it, goes on beyond the axis.'
)
_MEANINGS = (
    "No evidence: our interval holds both 0 and the paper's effect, so our runs cannot tell whether the claim is true. "
    'No verdict: something forbids one, and the table says what. Not seen: at reduced size there is no effect as large '
    "as the paper's, or the opposite one."
)
_SCATTER = (
    'Gain of PSNR (y) over the rainy images, of the weights that come with the package and of single trainings, '
    'against the time of a megapixel where a network of those settings was timed.'
)
_RULES = (
    "How verdicts are made: an interval is the widest of Student's t over seeds, over scenes and over both; images of "
    "one clean picture are one scene. `reproduced` needs the right sign, 0 outside of the interval, and the paper's "
    "effect inside or below it. An interval that holds 0 and the paper's effect is `no evidence`; beside it stands the "
    'smallest effect that such runs would show in four of five repetitions, by all three intervals. `no verdict` names '
    'what forbids one: fewer than three seeds, shared backgrounds or layers, a checkpoint chosen on the scored set, '
    "full size with another network or recipe than the paper's, or a comparison across commits, versions, devices or "
    "precisions. Sets that are not the paper's tests stand in for one of them: drawn "
    'heavy rain and other pairs of Rain100H for Test-II, wide streaks for Test-III, all others for Test-I. Scores are '
    'PSNR in dB / SSIM; ± is the standard deviation over seeds, brackets are 95 % intervals.'
)
_FOREST = """![forest plot of all verdicts](figures/verdicts.svg)

*{caption}*"""
_NO_CLAIMS = "Verdicts are made on the paper's claims alone, and no row here bears on one. tables.md has the variants."
_OVERVIEW = """# {title}

{plot}

- {full} Networks of a reduced size, trained for minutes, speak only of themselves.
{counts}
- *No evidence*: our interval holds both 0 and the paper's effect, so our runs cannot tell whether the claim is true.
- *No verdict*: something forbids one, as fewer than three seeds, backgrounds of training and test that nobody \
compared, outputs that are all worse than the rainy images. The tables say what.
- *Not seen*: at reduced size there is no effect as large as the paper's, or the opposite one.
- [report.html](report.html): the same page with pictures, sliders and tables to sort; download it, it needs no network.
- [tables.md](tables.md): every claim in words, its verdict and why, every table, every figure.
- `rows/`, `sparsity/`, `bench/`: the records behind them, one JSON file each; `paper.json`: the paper's \
numbers. A gain is the difference of `sets.SET.rgb.psnr` between rows of one seed; in Table 3, within one row, that of \
`sets.SET.rgb.psnr` over `sets.SET.scales.C_3.rgb.psnr`, or of one scale over another. \
tables.md ends with the commit and the command of each row.
- Made by `python -m qsnet_jax.main --mode=report`; it changes with the rows and is not edited by hand.
"""
