"""The documentation says what is so: links, commands, settings, messages and numbers in it."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from mde.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
# Written when the site is built, so not in the repository: docs/reference.py.
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.M)


def blocks(page: Path, *kinds: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text()) if kind in kinds]


def anchors(page: Path) -> set[str]:
    """As Git hosts and MkDocs make them of headings: `Your own data` → `your-own-data`."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), f"{page.name}: {target} leads out of the repository"
        assert file.exists(), f"{page.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: no heading for {target}"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([a-z]\w*\.md)$", text, re.M))
    assert {page.name for page in ROOT.glob("docs/*.md")} == named - {"cli.md"}


def test_the_api_pages_are_of_modules_that_are_there() -> None:
    names = re.findall(r"api/(\S+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert len(names) > 20
    for name in names:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each line of a shell block, without comments."""
    for block in blocks(page, "", "bash", "console", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"(^|\s)#.*", "", line).removeprefix("$ ").replace(".venv/bin/", "")
            for part in re.split(r"&&|\|\s", line):
                try:
                    words = shlex.split(part)
                except ValueError:
                    continue
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words.pop(0)
                if words:
                    yield words


def check_mde(words: list[str]) -> None:
    """Raises AssertionError unless the words name a command of `mde` and options that it has."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        assert rest, f"{' '.join(words)}: no command named"
        assert rest[0] in command.commands, f"{' '.join(words)}: no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    for word in rest:
        if re.match(r"--?[a-z]", word):
            name = word.split("=")[0]
            assert name in known | {"--help"}, f"{' '.join(words)}: {name} is none of {known}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_in_a_page_has_the_options_that_it_is_given(page: Path) -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for words in commands(page):
        shown = f"{page.name}: {' '.join(words)}"
        if words[0] == "mde":
            check_mde(words)
        elif words[0] == "make":
            made = [word for word in words[1:] if "=" not in word]
            assert set(made) <= set(targets), shown
        elif words[:2] == ["dvc", "repro"] or words[:3] == ["dvc", "exp", "run"]:
            named = [word.split("@")[0] for word in words if "@" in word]
            assert set(named) <= set(stages), shown
        if "-m" in words and words[words.index("-m") - 1].startswith("python"):
            path = ROOT.joinpath(*words[words.index("-m") + 1].split("."))
            assert path.with_suffix(".py").is_file() or path.is_dir(), shown


def test_a_wrong_option_and_a_wrong_command_are_found() -> None:
    for wrong in (
        "mde chek",
        "mde data",
        "mde data verify X --fast",
        "mde recipe use --bath-size 3",
    ):
        with pytest.raises(AssertionError):
            check_mde(wrong.split())
    check_mde(["mde", "recipe", "use", "NAME", "--batch-size", "48"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_a_page_compiles_and_imports_what_is_there(page: Path) -> None:
    for block in blocks(page, "python", "py"):
        if block.startswith("--8<--"):
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mde"):
                for alias in node.names:
                    assert has(node.module or "", alias.name), f"{page.name}: {ast.unparse(node)}"
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "mde":
                assert has("mde", node.attr), f"{page.name}: {ast.unparse(node)}"


def has(module: str, name: str) -> bool:
    """Whether `from module import name` would work; nothing is imported."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if (path / name).is_dir() or (path / f"{name}.py").is_file():
        return True
    tree = ast.parse(file.read_text())
    defined = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    aliases = {
        a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names
    }
    return name in defined | stored | aliases


@cache
def messages() -> list[str]:
    """Every text in the source of mde, but for docstrings; `…` for what is put in."""
    found = []
    for path in ROOT.glob("mde/**/*.py"):
        tree = ast.parse(path.read_text())
        bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in bare:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


QUOTED = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.M)


def test_many_messages_are_explained() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    assert len(headings) == len(QUOTED) == len(set(QUOTED)) >= 30


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_message_that_is_explained_is_one_of_the_source(quoted: str) -> None:
    parts = [part for part in quoted.split("…") if part.strip(" :;,.x")]
    assert sum(map(len, parts)) >= 15, "too little of it is quoted to find it"
    pattern = re.compile(".*".join(map(re.escape, parts)), re.S)
    assert any(pattern.search(message) for message in messages()), f"no message like {quoted!r}"


def table(page: str, start: str) -> dict[str, list[str]]:
    """Rows of the table in a page whose head begins with `start`: first cell → the others."""
    text = (ROOT / page).read_text()
    lines = text[text.index(start) :].splitlines()
    rows = [line.strip("|").split("|") for line in lines[2:]]
    end = next((i for i, line in enumerate(lines[2:]) if not line.startswith("|")), len(rows))
    return {row[0].split("`")[1]: [cell.strip() for cell in row[1:]] for row in rows[:end]}


def test_the_samples_numbers_are_those_of_the_readme() -> None:
    readme = table("README.md", "| sample, test split")
    assert readme == table("docs/families.md", "| variant | abs_rel")
