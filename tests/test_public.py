import dataclasses
import inspect
import json
import os
import subprocess
import sys

import pytest

import tutelage
from tutelage.options import VERBS

# What the command line gives a verb beside its options; a program may too.
WATCHERS = {"watch", "say", "write", "loaded"}  # what only Python can give


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_public_names_are_sorted_and_are_the_table() -> None:
    assert sorted(tutelage.HOMES) == tutelage.__all__ == list(tutelage.HOMES)
    assert set(tutelage.__all__) < set(dir(tutelage))
    assert set(VERBS) < set(tutelage.__all__)


@pytest.mark.parametrize("name", tutelage.__all__)
def test_each_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(tutelage, name)
    assert value.__name__ == name
    assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        tutelage.trian  # noqa: B018


@pytest.mark.parametrize("name", sorted(VERBS))
def test_the_command_line_and_the_function_take_the_same(name: str) -> None:
    required, optional = [], {}
    for field in dataclasses.fields(VERBS[name]):
        if field.default is dataclasses.MISSING or field.metadata.get("positional"):
            required.append(field.name)
        else:
            optional[field.name] = field.default
    parameters = inspect.signature(getattr(tutelage, name)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == required
    assert {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in WATCHERS} == optional
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_option_has_help_and_a_default_that_cannot_change(name: str) -> None:
    assert VERBS[name].__doc__
    for annotation in VERBS[name].__annotations__.values():
        assert annotation.__metadata__[0].strip()
    for field in dataclasses.fields(VERBS[name]):
        if field.default is not dataclasses.MISSING:
            hash(field.default)


def test_importing_the_package_or_its_options_imports_nothing_heavy() -> None:
    code = "import sys, json, tutelage, tutelage.options, tutelage.progress; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(python(code)))
    assert loaded & {"torch", "transformers", "numpy", "rich", "yaml", "pydantic", "typer", "jinja2"} == set()


def test_importing_the_package_is_quick() -> None:
    """In processor time, against an empty interpreter: a busy machine does not fail it."""

    def best(code: str) -> float:
        times = []
        for _ in range(3):
            start = os.times()
            python(code)
            end = os.times()
            times.append(end.children_user + end.children_system - start.children_user - start.children_system)
        return min(times)

    assert best("import tutelage") - best("pass") < 0.3


@pytest.mark.parametrize("first", ["tutelage.train.types", "tutelage.report.words", "tutelage.runs"])
def test_importing_a_part_does_not_hide_the_verb_of_its_name(first: str) -> None:
    verb = first.split(".")[1]
    code = f"import {first}, tutelage; print(tutelage.{verb}.__module__, callable(tutelage.{verb}))"
    assert python(code).split() == [f"tutelage.verbs.{verb}", "True"]
