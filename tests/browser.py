"""Opens a page in a real browser and asks it what it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

# Errors, and requests that the page's own policy forbids: all but data in the page.
WATCH = """const errors = [];
addEventListener('error', (e) => errors.push(String(e.message || e.target)), true);
addEventListener('securitypolicyviolation', (e) => errors.push(e.violatedDirective));
"""
# A window cannot be as narrow as a phone, but a frame can.
FRAME = """<body><script>addEventListener('message', (e) => {
  for (const [key, value] of Object.entries(e.data)) document.body.setAttribute('said-' + key, value);
})</script><iframe src="%s" style="width: %dpx; height: 844px; border: 0"></iframe>"""


def ask_page(page: Path, script: str, width: int) -> dict[str, str]:
    """What a page says of itself.

    Args:
        page: an HTML file with a ``style`` element, which is changed.
        script: body of a function that runs after the page has loaded, and returns an object of words and numbers.
        width: of the frame, in pixels.

    Returns:
        The object's values as words, and ``errors``.
    """
    browser = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)
    if not browser:
        pytest.skip('needs chromium or google-chrome on PATH')
    probe = (
        f'<script>{WATCH}const ask = () => {{{script}}};\n'
        "addEventListener('load', () => setTimeout(() => "
        "parent.postMessage({...ask(), errors: errors.join()}, '*'), 100));</script>"
    )
    page.write_text(page.read_text(encoding='utf-8').replace('<style>', probe + '<style>', 1), encoding='utf-8')
    frame = page.with_name('frame.html')
    frame.write_text(FRAME % (page.name, width), encoding='utf-8')
    run = subprocess.run(
        [
            browser,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--virtual-time-budget=2000',
            '--dump-dom',
            f'--user-data-dir={page.with_name("profile")}',
            '--window-size=1300,900',
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = dict(re.findall(r'said-(\w+)="([^"]*)"', run.stdout))
    assert said, f'the page said nothing: {run.stdout[:500]} {run.stderr[-500:]}'
    return said
