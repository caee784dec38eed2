"""The pages of the site that the code writes, and links that lead out of `docs/`.

MkDocs calls the functions named `on_…` (see `hooks` in mkdocs.yml).
"""

import re
from collections.abc import Iterator
from posixpath import normpath
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from mde.cli import app

COMMANDS = "cli.md"
API = "api/"
COMMAND_LIST = re.compile(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n")
# [text](target), but not ![picture](target).
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the command line's page, and one for each module that the navigation names."""
    files.append(File.generated(config, COMMANDS, content=command_line()))
    for path in pages(config.nav):
        if path.startswith(API):
            name = path.removeprefix(API).removesuffix(".md")
            files.append(File.generated(config, path, content=f"# `{name}`\n\n::: {name}\n"))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to code and to files outside docs/ are for Git hosts; the site says their names."""
    folder = page.file.src_uri.rpartition("/")[0]

    def keep_or_unlink(link: re.Match[str]) -> str:
        target = normpath(f"{folder or '.'}/{link[2]}")
        outside = target.startswith("..") or target.endswith(".py")
        return f"`{normpath(f'docs/{target}')}`" if outside else link[0]

    return LINK.sub(keep_or_unlink, markdown)


def command_line() -> str:
    """Markdown of every command of `mde`, its arguments and options."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="mde")
    text = get_docs_for_click(obj=command, ctx=context, name="mde", title="Command line")
    # Typer's lists of commands break off in the middle of a sentence.
    return COMMAND_LIST.sub("", text)


def pages(nav: Any) -> Iterator[str]:
    """The paths of all pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(item)
