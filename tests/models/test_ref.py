import subprocess
import sys

import pytest

from tutelage.errors import MissingInputError, ModelError
from tutelage.models.ref import parse_ref
from tutelage.models.types import ModelRef


def test_a_catalogue_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m").mkdir()
    assert parse_ref("smollm2-135m") == ModelRef("catalog", "smollm2-135m")
    assert parse_ref("./smollm2-135m").kind == "folder"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", ModelRef("hub", "org/name")),
        ("org/name@main", ModelRef("hub", "org/name", "main")),
        ("Org-1/na.me_2@refs/pr/3", ModelRef("hub", "Org-1/na.me_2", "refs/pr/3")),
        ("a/b@" + "0" * 40, ModelRef("hub", "a/b", "0" * 40)),
    ],
)
def test_hub_ids(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_ref(name) == expected


def test_an_existing_folder_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert parse_ref("org/name") == ModelRef("folder", "org/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_ref("~/org") == ModelRef("folder", str(tmp_path / "org"))


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("smollm2-135", MissingInputError, "did you mean `smollm2-135m`?"),
        ("zzz", MissingInputError, "one of: bart-base"),
        ("", MissingInputError, "there is no model called ``"),
        ("/no/such/folder", MissingInputError, "there is no such model folder"),
        ("./nothing", MissingInputError, "there is no such model folder"),
        ("a/b/c", MissingInputError, "there is no such model folder"),
        ("../x/y", MissingInputError, "there is no such model folder"),
        ("org/..@x", MissingInputError, "there is no such model folder"),
        ("some.gguf", ModelError, "a .gguf file cannot be the base model yet"),
        ("here.GGUF", ModelError, "a .gguf file cannot be the base model yet"),
        ("model.safetensors", ModelError, "a model is a folder"),
        ("notes.txt", ModelError, "this is not a model"),
    ],
)
def test_what_is_no_model_is_said_with_a_fix(name, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("model.safetensors", "notes.txt", "here.GGUF"):
        (tmp_path / file).write_text("x")
    with pytest.raises(error) as caught:
        parse_ref(name)
    assert says in str(caught.value)
    assert caught.value.problems[0].fix


def test_names_catalogue_and_description_import_no_torch():
    code = "import sys; from tutelage.models import ref, describe, fetch; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
