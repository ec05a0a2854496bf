"""Markdown pages: links, anchors, commands, paths, and the tree of docs/architecture.md."""

import importlib
import re
import shlex
from collections import Counter
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mindeye_dist", "jobs", "serve")
FOLDERS = (*PACKAGES, "cluster", "docs", "tests", "bench", "chaos", "tools")
PAGES = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
PATH = re.compile(rf"(?<![\w./:-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w")
JOB = re.compile(r"jobs/(\w+)\.py")


def prose(text):
    """Return a page without its fenced blocks."""
    return FENCE.sub("", text)


def links(text):
    """Return the targets of a page's links and images."""
    return LINK.findall(SPAN.sub("", prose(text)))


def anchors(text):
    """Return the anchors that GitHub gives to a page's headings."""
    found, seen = set(), Counter()
    for heading in HEADING.findall(prose(text)):
        shown = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def commands(text):
    """Return job and arguments of each command in fenced blocks, whatever program starts it."""
    blocks = "\n".join(block for _, _, block in FENCE.findall(text)).replace("\\\n", " ")
    found = []
    for line in blocks.splitlines():
        if re.match(r"(python|torchrun|ray job submit) .*?jobs/\w+\.py", line):
            words = shlex.split(line, comments=True)
            (at,) = (number for number, word in enumerate(words) if JOB.fullmatch(word))
            found.append((JOB.fullmatch(words[at])[1], words[at + 1 :]))
    return found


def tree(block):
    """Return the paths of a tree that has one file or folder on each line, by indentation."""
    folders, found = [], []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        first, *more = line.split()
        for name in [first, *takewhile(lambda word: word.endswith(".py"), more)]:
            folders[depth:] = [name.rstrip("/")]
            found.append("/".join(folders))
    return found


def architecture_tree():
    text = (ROOT / "docs/architecture.md").read_text()
    (block,) = (b for _, _, b in FENCE.findall(text) if b.startswith("mindeye_dist/"))
    return tree(block)


COMMANDS = [
    pytest.param(job, arguments, id=f"{page.relative_to(ROOT)}: {job} {' '.join(arguments)}")
    for page in PAGES
    for job, arguments in commands(page.read_text())
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


@each_page
def test_links_lead_somewhere(page):
    """Oracles: this folder; GitHub's rule for anchors."""
    for link in links(page.read_text()):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@each_page
def test_paths_exist(page):
    """Oracle: this folder. Names of modules may stand without their folder."""
    text = page.read_text()
    assert [path for path in PATH.findall(text) if not (ROOT / path).exists()] == []
    known = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    spans = SPAN.findall(prose(text))
    assert [s for s in spans if re.fullmatch(r"\w+\.py", s) and s not in known] == []


@pytest.mark.parametrize(("job", "arguments"), COMMANDS)
def test_jobs_take_the_commands(job, arguments, capsys):
    """Oracle: the job's own parser."""
    try:
        importlib.import_module(f"jobs.{job}").parse(arguments)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def test_a_wrong_flag_in_a_command_is_found():
    """Oracle: a mistake that is put there, behind a continuation and a comment."""
    text = "```\npython jobs/train.py \\\n    --data.ulr x  # why\n```\n"
    ((job, arguments),) = commands(text)
    with pytest.raises(SystemExit):
        importlib.import_module(f"jobs.{job}").parse(arguments)


def test_the_tree_is_the_tree():
    """Oracle: this folder."""
    named = architecture_tree()
    modules = {
        str(path.relative_to(ROOT))
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert modules - set(named) == set()
    assert [path for path, count in Counter(named).items() if count > 1] == []


def test_the_readme_is_short_and_leads_to_every_page():
    """Oracle: the folder docs."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    known = {link.partition("#")[0] for link in links(text)}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - known == set()


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("A new loss: three files", "a-new-loss-three-files"),
        ("Where is ...", "where-is-"),
        ("`max_lr` & [others](x.md)", "max_lr--others"),
        ("Non-finite", "non-finite"),
    ],
)
def test_anchors_are_those_of_github(heading, anchor):
    """Oracle: anchors that GitHub shows; the second heading of a name is numbered."""
    assert anchors(f"# {heading}\n\n```\n# comment\n```\n\n## {heading}\n") == {
        anchor,
        f"{anchor}-1",
    }


def test_commands_are_found_in_all_their_forms():
    """Oracle: written out."""
    text = """
```
python jobs/train.py --resume    # again
torchrun --nproc-per-node 2 jobs/train.py --without-ray
ray job submit --address http://127.0.0.1:8265 -- python jobs/pool.py build --out 'a b' \\
    --images x
a drawing of the VAE's latents
```
"""
    assert commands(text) == [
        ("train", ["--resume"]),
        ("train", ["--without-ray"]),
        ("pool", ["build", "--out", "a b", "--images", "x"]),
    ]
