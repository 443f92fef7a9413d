"""The command line: one command per verb, built from the options table; the verbs do the work.

stdout carries the result (with --json exactly one document), stderr everything else. Exit codes are those of errors.py,
2 for a command line that cannot be understood, 70 for a bug of ours and 1 where a result says `ok: false`.
"""

import contextlib
import inspect
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_args, get_type_hints

import typer

import tutelage
from tutelage.errors import TutelageError, UsageError
from tutelage.options import VERBS
from tutelage.progress import Progress
from tutelage.runs import plain
from tutelage.show import SHOW

BUG = 70
INTERRUPTED = 130
BROKEN_PIPE = 141  # what the shell reports of a program that SIGPIPE ended
# A model may write anything, also what moves a terminal's cursor: control characters become their pictures.
PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
# typer has no public name for the parent of its parse errors, and since 0.29 it is no longer click's.
ParseError: type[Exception] = typer.BadParameter.__mro__[2]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code after running the command line `argv` (default: this process's)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        code = build()(arguments, prog_name="tutelage", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except ParseError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            return UsageError.exit_code
        return _fail(_usage_error(error), as_json="--json" in arguments)
    except BrokenPipeError:
        return _reader_left()
    except KeyboardInterrupt:
        return INTERRUPTED


def build() -> Callable[..., Any]:
    """The whole command line as a click command."""
    app = _group("Fine-tune a language model on your labelled data, and prove that it was done right.")
    app.callback()(_root)
    groups: dict[str, typer.Typer] = {}
    for name, options in VERBS.items():
        group, _, short = name.rpartition("_")
        if group and group not in groups:
            groups[group] = _group(GROUP_HELP[group])
            app.add_typer(groups[group], name=group)
        (groups[group] if group else app).command(short, help=options.__doc__)(_command(name, options))
    return typer.main.get_command(app)


GROUP_HELP = {
    "data": "Labelled data: check, prepare, merge, review.",
    "models": "The models that can be tuned: list, describe, get.",
}


METAVARS = {str: "TEXT", str | None: "TEXT", int: "NUMBER", float: "NUMBER", tuple[str, ...]: "TEXT"}


def _group(text: str) -> typer.Typer:
    return typer.Typer(
        help=text, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def _print_version(value: bool) -> None:
    if value:
        print(f"tutelage {tutelage.__version__}")
        raise typer.Exit(0)


Version = Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)]


def _root(version: Version = False) -> None:
    """Options of the program itself."""


def _command(name: str, options: type) -> Callable[..., int]:
    """A function with the signature that typer reads flags from, which runs the verb `name`."""

    def command(**values: Any) -> int:
        as_json, debug = values.pop("json"), values.pop("debug")
        return run(
            name, options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}), as_json, debug
        )

    hints = get_type_hints(options, include_extras=True)
    parameters = []
    for field in fields(options):
        kind, text = get_args(hints[field.name])
        flag, metavar = "--" + field.name.replace("_", "-"), "KEY=VALUE" if field.name == "set" else METAVARS.get(kind)
        required = field.default is MISSING
        info = (
            typer.Argument(help=text, show_default=False)
            if required or field.metadata.get("positional")
            else typer.Option(flag, help=text, metavar=metavar, show_default=field.default not in ((), None, False))
        )
        default: Any = field.default
        if kind == tuple[str, ...]:
            kind, default = list[str], None if required else list(default)
        parameters.append(
            _parameter(field.name, Annotated[kind, info], inspect.Parameter.empty if required else default)
        )
    json_help = "Print the result as one JSON document."
    parameters.append(_parameter("json", Annotated[bool, typer.Option("--json", help=json_help)], False))
    parameters.append(_parameter("debug", Annotated[bool, typer.Option("--debug", help="Show tracebacks.")], False))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def run(name: str, options: Any, as_json: bool, debug: bool) -> int:
    """The exit code of the verb `name`, after its result or its error was printed."""
    try:
        result = _result(name, options, as_json)
        if as_json:
            _print_json(result)
        else:
            for line in SHOW[name](result):
                print(line)
            sys.stdout.flush()
    except TutelageError as error:
        if debug:
            traceback.print_exc()
        return _fail(error, as_json)
    except BrokenPipeError:  # here and not in `main`: typer makes another exit code of it
        return _reader_left()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _bug(error, as_json, debug)
    return 1 if isinstance(result, dict) and result.get("ok") is False else 0


def _result(name: str, options: Any, as_json: bool) -> Any:
    """What the verb returns, as JSON values."""
    # What a library prints must not get between a program and the one JSON document.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        values = {field.name: getattr(options, field.name) for field in fields(options)}
        progress = (
            Progress() if name == "data_prepare" else _progress(values)
        )  # reads the recipe: a wrong one is refused before torch is imported
        verb: Callable[..., Any] = getattr(tutelage, name)
        return plain(verb(**values, **_watchers(verb, progress)))


def _reader_left() -> int:
    # Python flushes stdout once more at exit, which must not complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _watchers(verb: Callable[..., Any], progress: Progress) -> dict[str, Any]:
    """What a verb may take beside its options: `watch` for events, `say` for lines, `write` for streamed text."""
    wanted = inspect.signature(verb).parameters
    offered = {"watch": progress, "say": progress.say, "write": _write}
    return {key: value for key, value in offered.items() if key in wanted}


def _progress(values: dict[str, Any]) -> Progress:
    """A watcher that knows where the run ends, if the verb is given a recipe."""
    if not values.get("recipe"):
        return Progress()
    optim = tutelage.read_recipe(values["recipe"], tuple(values["set"])).optim
    return Progress(optim.steps, optim.epochs)


def _write(text: str) -> None:
    print(text.translate(PICTURES) if sys.stdout.isatty() else text, end="", flush=True)


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False), flush=True)


def _fail(error: TutelageError, as_json: bool) -> int:
    if as_json:
        _print_json(error.as_json())
    for i, line in enumerate(str(error).split("\n")):
        print(line if i and line.startswith(("  ", "... ")) else f"error: {line}", file=sys.stderr)
    return error.exit_code


def _usage_error(error: Exception) -> UsageError:
    command = getattr(getattr(error, "ctx", None), "command_path", "tutelage")
    return UsageError(error.format_message(), fix=f"{command} --help")  # type: ignore[attr-defined]


def _bug(error: Exception, as_json: bool, debug: bool) -> int:
    """Exit code 70, after one line that says what happened and where the rest is written."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="tutelage-crash-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(f"tutelage {tutelage.__version__}, Python {sys.version}\n{sys.argv}\n\n")
        file.writelines(traceback.format_exception(error))
    if debug:
        traceback.print_exception(error)
    what = " ".join(f"this is a bug of tutelage: {type(error).__name__}: {error}".split())
    if as_json:
        problem = {"what": what, "where": file.name, "why": "", "fix": "report it with this file"}
        _print_json({"error": type(error).__name__, "exit_code": BUG, "problems": [problem], "total": 1})
    print(f"error: {what} (details: {file.name})", file=sys.stderr)
    return BUG
