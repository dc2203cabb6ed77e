"""The page in a browser: what it shows and does, on a computer and a phone, light and dark."""

import re

import pytest
from made_rows import write_study

from qsnet_jax.evidence import page, report


def test_text_of_strangers_stays_text(tmp_path):
    """Names with markup neither break a table nor become elements."""
    items = [page.Heading('H'), page.Table('T', ['a'], [['<img src=x onerror=alert(1)> | **b**']])]
    html, text = page.html(items), page.markdown(items, tmp_path)
    assert '&lt;img src=x' in html and '**b**' in html and '<img src=x' not in html
    assert r'\<img src=x onerror=alert(1)> \| \*\*b\*\*' in text


def test_pictures_of_any_name_are_linked(tmp_path):
    """Spaces and line breaks end a link in Markdown, and brackets a caption."""
    path = tmp_path / 'figures/a (b)\n\udce4.png'
    text = page.markdown([page.Heading('H'), page.Figure(path, 'of a [b]\nc')], tmp_path)
    assert r'![of a \[b\] c](figures/a%20%28b%29%0A%E4.png)' in text


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    """The report of made-up rows, written once."""
    folder = write_study(tmp_path_factory.mktemp('results'))
    report.report(folder)
    return (folder / 'report.html').as_uri()


@pytest.fixture
def tab(browser, address, request):
    """The report in a window of the width that the test asks for; what goes wrong in it fails the test."""
    width, scheme = getattr(request, 'param', (1280, 'light'))
    tab = browser.new_page(viewport={'width': width, 'height': 800}, color_scheme=scheme)
    troubles = []
    tab.on('console', lambda message: troubles.append(message.text))
    tab.on('pageerror', lambda error: troubles.append(str(error)))
    tab.on('request', lambda request: troubles.append(request.url) if request.url.startswith('http') else None)
    tab.goto(address)
    yield tab
    tab.close()
    assert not troubles


EVERY_WINDOW = [(width, scheme) for width in (1280, 390) for scheme in ('light', 'dark')]


@pytest.mark.parametrize('tab', EVERY_WINDOW, indirect=True)
def test_nothing_is_wider_than_the_window(tab):
    """Neither folded nor with every table open, in which each cell of a phone's card is inside it too."""
    assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth')
    tab.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth')
    if tab.viewport_size['width'] < 500:
        assert tab.evaluate(
            "[...document.querySelectorAll('td')].every(cell => cell.getBoundingClientRect().right <= innerWidth)"
        )
    else:
        assert tab.evaluate("getComputedStyle(document.querySelector('th')).position") == 'sticky'


@pytest.mark.parametrize('tab', EVERY_WINDOW, indirect=True)
def test_labels_and_contrast(tab, axe):
    """By the rules of axe-core, with every table open."""
    tab.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert axe(tab) == []


@pytest.mark.parametrize('tab', EVERY_WINDOW[::3], indirect=True)
def test_tables_sort_and_filter(tab):
    """By head or, on a phone, by a list; what does not match is hidden and said."""
    tab.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    details = tab.locator('details', has_text='DDN (paper)').first
    order = lambda: details.locator('tbody tr td:nth-child(2)').all_text_contents()  # noqa: E731
    if tab.viewport_size['width'] > 500:
        details.locator('th button').nth(1).click()
    else:
        details.locator('select').select_option('Test-I')
    rising = [float(text.split()[0]) for text in order() if text != '-']
    assert rising == sorted(rising) and rising[0] == 17.93 and order()[-1] == '-'
    if tab.viewport_size['width'] > 500:
        details.locator('th button').nth(1).press('Enter')
        falling = [float(text.split()[0]) for text in order() if text != '-']
        assert falling == rising[::-1] and order()[-1] == '-'
    details.locator('input').fill('ddn paper')
    assert details.locator('tbody tr:visible').count() == 1
    assert re.fullmatch(r'1 of \d+ rows', details.locator('[role=status]').inner_text())
    key = 'text => key(text)'  # what tables are sorted by
    keys = tab.evaluate(f"['7e-08', '+1.5 (0 .. 2)', '30.1 ± 2', '2026-11-23', '5ccd7fb', '-'].map({key})")
    assert keys == [7e-8, 1.5, 30.1, None, None, None]


@pytest.mark.parametrize('tab', EVERY_WINDOW[::3], indirect=True)
def test_sliders_slide_and_pictures_enlarge(tab):
    """By keyboard as well."""
    slider = tab.locator('.slider').first
    slider.locator('input').fill('20')
    assert slider.evaluate('node => getComputedStyle(node).getPropertyValue("--at")').strip() == '20%'
    slider.locator('input').press('ArrowRight')
    assert slider.evaluate('node => getComputedStyle(node).getPropertyValue("--at")').strip() == '21%'
    tab.locator('button.zoom').first.press('Enter')
    assert tab.locator('dialog[open]').count() == 1
    tab.locator('dialog button').press('Enter')
    assert tab.locator('dialog[open]').count() == 0
    tab.locator('button.zoom-pair').first.click()
    tab.keyboard.press('Escape')
    assert tab.locator('dialog[open]').count() == 0


@pytest.mark.parametrize('tab', EVERY_WINDOW[:3], indirect=True)
def test_one_of_two_plots_is_shown(tab):
    """That for the window's width, before anything but headings and a paragraph."""
    is_wide = tab.viewport_size['width'] > 500
    assert tab.locator('.wide-only svg').first.is_visible() == is_wide
    assert tab.locator('div.narrow-only svg').first.is_visible() != is_wide
    assert tab.locator('svg:visible').first.bounding_box()['y'] < 500
