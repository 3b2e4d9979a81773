"""What the site needs beside the pages, which are written to be read on GitHub: README.md as its first page."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OVERVIEW = 'overview.md'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """README.md is outside of the folder that the site is made from: put it in, with its links as seen from there."""
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    files.append(File.generated(config, OVERVIEW, content=re.sub(r'\]\(docs/', '](', readme)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to README.md lead to its page; a list begins without an empty line above it, as on GitHub."""
    up = '../' * page.file.src_uri.count('/')
    markdown = markdown.replace(f']({up}../README.md', f']({up}{OVERVIEW}')
    return re.sub(r'(?m)^(?!\s*(?:[-*|]|\d+\.) |\s*$)(.*)\n(?=(?:- |\d+\. ))', r'\1\n\n', markdown)
