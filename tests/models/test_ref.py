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
        ("some.gguf", MissingInputError, "there is no such GGUF file"),
        ("org/name/a-Q4_0.gguf", MissingInputError, "hf download org/name a-Q4_0.gguf --local-dir ."),
        ("org/name:a-Q4_0.gguf", MissingInputError, "then name ./a-Q4_0.gguf"),
        ("model.safetensors", ModelError, "a model is a folder"),
        ("notes.txt", ModelError, "this is not a model"),
    ],
)
def test_what_is_no_model_is_said_with_a_fix(name, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("model.safetensors", "notes.txt"):
        (tmp_path / file).write_text("x")
    with pytest.raises(error) as caught:
        parse_ref(name)
    assert says in str(caught.value)
    assert caught.value.problems[0].fix


def test_a_gguf_file_is_known_by_its_name_or_its_first_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.GGUF").write_bytes(b"")
    (tmp_path / "sha256-0123").write_bytes(b"GGUF....")
    assert parse_ref("a.GGUF") == ModelRef("gguf", "a.GGUF")
    assert parse_ref("./sha256-0123") == ModelRef("gguf", "sha256-0123")


def test_names_catalogue_and_description_import_no_torch():
    code = "import sys; from tutelage.models import ref, describe, fetch; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
