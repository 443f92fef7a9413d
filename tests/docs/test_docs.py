"""What README.md and docs/ say: commands parse and run, links lead somewhere, samples are what they claim to be."""

import importlib.util
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import tutelage
from tutelage import cli
from tutelage.data.checks import find_problems
from tutelage.data.formats import FORMATS
from tutelage.data.formats.detect import detect
from tutelage.data.types import At
from tutelage.errors import TutelageError
from tutelage.models.catalog import CATALOG
from tutelage.options import VERBS
from tutelage.recipe import make_recipe

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "bench" / "README.md",
]
BLOCK = re.compile(
    r"(?:^<!-- (?P<tag>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
REAL_MODEL = "smollm2-135m"
QUICKLY = "precision: fp32\nforgetting: false\nthreads: 1\n"  # two threads wait for each other where other tests run beside them
PROGRAMS = {"make", "pip", "sha256sum", "tutelage"}


@dataclass(frozen=True)
class Block:
    page: Path
    tag: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def blocks(page: Path) -> Iterator[Block]:
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(page, match["tag"] or "", match["language"], match["text"])


BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = sorted({line for block in BLOCKS if block.language == "console" for line in block.commands})


def spoken(page: Path) -> str:
    """How pytest names a page."""
    return str(page.relative_to(ROOT))


def parse(arguments: list[str]) -> Any:
    """The parsed parameters of a `tutelage` command line, through the real parser; a usage error is raised."""
    command, path = cli.build(), "tutelage"
    while hasattr(command, "commands"):
        word, *arguments = arguments
        assert word in command.commands, f"`{path}` has no `{word}`"
        command, path = command.commands[word], f"{path} {word}"
    return command.make_context(path, list(arguments)).params


def test_the_pages_are_found() -> None:
    assert len(PAGES) >= 12
    assert len(COMMANDS) >= 20
    assert sum(block.tag == "run" for block in BLOCKS) >= 6


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_can_be_typed(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program in PROGRAMS, f"teach this test what `{program}` is"
    if program == "tutelage":
        parse(arguments)
    if program == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)


def test_the_parser_of_this_test_refuses_what_does_not_exist() -> None:
    with pytest.raises(Exception, match="--epochs"):
        parse(["train", "r.yaml", "--epochs", "3"])
    with pytest.raises(AssertionError):
        parse(["tune", "r.yaml"])


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", [page for page in PAGES if any(b.tag == "run" for b in blocks(page))], ids=spoken)
def test_the_commands_of_a_page_run(
    page: Path,
    model_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In order and in one folder that holds the files the page shows; a tiny model stands in for the real one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", StringIO(""))
    for block in blocks(page):
        text = block.text.replace(REAL_MODEL, str(model_folder("llama")))
        if block.language == "yaml":
            text += QUICKLY
        if block.tag.startswith("file: "):
            (tmp_path / block.tag.removeprefix("file: ")).write_text(text, encoding="utf-8")
        if block.tag == "run":
            for line in block.commands:
                code = cli.main(shlex.split(line.replace(REAL_MODEL, str(model_folder("llama"))))[1:])
                assert code == 0, f"{line}\n{capsys.readouterr().err}"
        if block.language == "python":
            exec(compile(text, str(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=spoken)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert (ROOT in file.resolve().parents) or file.resolve() == ROOT
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


SAMPLES = [block for block in BLOCKS if block.tag.startswith("format: ")]


@pytest.mark.parametrize("block", SAMPLES, ids=lambda block: block.tag)
def test_a_sample_is_of_the_format_it_shows(block: Block) -> None:
    row = json.loads(block.text)
    found = detect([(At("guide", 1), row)])
    assert found.name == block.tag.removeprefix("format: ")
    made: Any = found.parse(row, At("guide", 1))
    assert type(made) is found.kind
    assert not find_problems(made)


def test_every_format_has_a_sample() -> None:
    assert sorted(block.tag.removeprefix("format: ") for block in SAMPLES) == sorted(FORMATS)


RECIPES = [b for b in BLOCKS if b.language == "yaml" and b.text.startswith("model:")]


@pytest.mark.parametrize("block", RECIPES, ids=lambda block: spoken(block.page))
def test_a_recipe_is_valid(block: Block) -> None:
    assert make_recipe(yaml.safe_load(block.text)).model in CATALOG


def test_the_readme_lists_every_verb_and_stays_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Commands")[2].partition("\n## ")[0]
    listed = re.findall(r"`tutelage (\w+)", table)
    assert sorted(set(listed)) == sorted({name.partition("_")[0] for name in VERBS})
    assert {name.partition("_")[2] for name in VERBS if name.startswith("models_")} <= set(re.findall(r"\w+", table))
    assert len(text.splitlines()) < 200


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_fresh() -> None:
    generate = load(ROOT / "docs" / "generate.py")
    assert set(generate.PAGES) == {"recipe.md", "cli.md"}
    for name, page in generate.PAGES.items():
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert text == page().rstrip() + "\n", f"docs/{name} is stale: make docs"


def test_the_exit_codes_are_those_of_the_exceptions() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    written = {(int(code), name) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)}
    assert written == {(error.exit_code, error.__name__) for error in TutelageError.__subclasses__()}


def test_every_check_of_the_token_contract_is_explained(
    model_folder: Callable[[str], Path], chat_file: Callable[[int], Path]
) -> None:
    recipe = make_recipe({"model": str(model_folder("llama")), "data": {"train": str(chat_file(4))}})
    checks = [check["name"] for check in tutelage.preview(recipe)["checks"]]
    text = (ROOT / "docs" / "token-contract.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == checks


def test_the_catalogue_page_lists_every_model() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for model in tutelage.models_list()["models"]:
        cells = (
            f"`{model['name']}`",
            f"{model['parameters']:,}",
            f"{model['context']:,}",
            model["licence"],
            model["hub"],
            model["wheel"] or "none",
        )
        assert f"| {' | '.join(cells)} |" in text


@pytest.mark.parametrize("page", PAGES, ids=spoken)
def test_no_figure_is_left_to_be_filled_in(page: Path) -> None:
    assert "TODO" not in page.read_text(encoding="utf-8")
