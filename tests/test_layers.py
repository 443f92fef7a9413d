"""The shape of the package, read from its source: what may import what, and what may not stand in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tutelage"
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [
    {"errors", "registry", "recipe", "runs", "taskspec", "methodspec", "unions"},
    {"data", "models", "metrics"},
    {"encode", "engine", "generate"},
    {"methods"},
    {"tasks"},
    {"train"},
    {"evaluate"},
    {"curate", "search", "serve", "export", "report"},
    {"verbs"},
    {"cli", "studio", "options", "columns", "show", "show_scores", "progress", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "misc.py", "util.py", "helper.py"}
MOST_LINES, MOST_FUNCTION_LINES = 400, 80


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = {module_of(path) for path in FILES}


def imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    """The modules of this package that `node` imports, anywhere in it, with their lines."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            yield from ((alias.name, inner.lineno) for alias in inner.names if alias.name.split(".")[0] == "tutelage")
        elif isinstance(inner, ast.ImportFrom) and (inner.level or (inner.module or "").split(".")[0] == "tutelage"):
            for alias in inner.names:
                module = f"{inner.module}.{alias.name}"
                yield (module if module in MODULES else str(inner.module)), inner.lineno


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_part_of_the_package_has_a_layer() -> None:
    parts = {part(module_of(path)) for path in FILES} - {"__init__"}
    assert parts - set(LEVEL) == set()


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_imports_point_downward(path: Path) -> None:
    own = part(module_of(path))
    if own == "__init__":
        assert list(imports(tree_of(path))) == []  # the lazy table names modules, it imports none
        return
    upward = [
        f"{path}:{line} imports {module}"
        for module, line in imports(tree_of(path))
        if module != "tutelage" and LEVEL[part(module)] > LEVEL[own]
    ]
    assert upward == []


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_internal_imports_name_modules_in_full(path: Path) -> None:
    """`tutelage.train`, `.report` and `.runs` are verbs to who asks the package: parts are imported by `from`."""
    if module_of(path).split(".")[-1] in ("cli", "__main__"):
        return
    wrong = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            wrong += [f"{path}:{node.lineno} import {a.name}" for a in node.names if a.name.startswith("tutelage.")]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tutelage" and node.attr[:2] != "__":
            wrong.append(f"{path}:{node.lineno} tutelage.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.level:
            wrong.append(f"{path}:{node.lineno} is a relative import")
        elif isinstance(node, ast.ImportFrom) and node.module == "tutelage":
            wrong += [
                f"{path}:{node.lineno} from tutelage import {a.name}" for a in node.names if a.name != "__version__"
            ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_no_internal_import_inside_a_function(path: Path) -> None:
    hidden = [f"{path}:{line} {module}" for f in functions(tree_of(path)) for module, line in imports(f)]
    assert hidden == []


def test_there_is_no_import_cycle() -> None:
    graph = {
        module_of(path): {module for module, _ in imports(tree_of(path)) if module != "tutelage"} for path in FILES
    }
    done: set[str] = set()

    def walk(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " → ".join([*above[above.index(module) :], module])
        if module not in done:
            for other in graph.get(module, ()):
                walk(other, (*above, module))
            done.add(module)

    for module in graph:
        walk(module, ())


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert path.name not in FORBIDDEN_NAMES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    long = [f.name for f in functions(tree_of(path)) if f.end_lineno and f.end_lineno - f.lineno >= MOST_FUNCTION_LINES]
    assert long == []


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_nothing_dangerous_stands_in_the_source(path: Path) -> None:
    assert list(dangers(tree_of(path))) == []


def dangers(tree: ast.AST) -> Iterator[str]:
    """What may not stand in this package: pickles, shells, built code, loaders that run what they read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(re.match(r"(c?[pP]ickle|dill|joblib|shelve|marshal|cloudpickle)(\.|$)", name) for name in names):
                yield f"line {node.lineno}: imports a pickle"
        elif isinstance(node, ast.Call):
            yield from dangerous_call(node)


def dangerous_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if called in ("exec", "eval", "compile", "__import__", "torch.load", "torch.save", "os.system", "os.popen"):
        yield f"line {node.lineno}: {called}"
    if called in ("np.load", "numpy.load") and _is_true(keywords.get("allow_pickle")):
        yield f"line {node.lineno}: {called} of pickles"
    if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") and not safe_loader(keywords.get("Loader")):
        yield f"line {node.lineno}: {called} without our loader"
    for name in ("shell", "trust_remote_code"):
        if _is_true(keywords.get(name)):
            yield f"line {node.lineno}: {name}=True"


def _is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def safe_loader(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Name) and value.id == "_Loader"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)", "subprocess.run('ls', shell=True)", "exec('1')", "eval('1')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)", "os.system('ls')", "np.load(f, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_search_for_dangers_finds_them(source: str) -> None:
    assert list(dangers(ast.parse(source)))


def test_the_search_for_dangers_lets_the_rest_be() -> None:
    for fine in (
        "yaml.load(t, Loader=_Loader)", "yaml.safe_load(t)", "model.eval()", "re.compile('x')", "np.load(f)",
        "f(trust_remote_code=False)",
    ):  # fmt: skip
        assert list(dangers(ast.parse(fine))) == []
