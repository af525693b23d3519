"""The layers of WORKSPACE.md, read off the imports: a wrong arrow fails here."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "biomedgpt_jax"
NAME = PACKAGE.name
MAY_IMPORT = {
    "core": set(),
    "data": set(),
    "report": set(),
    "synth": {"data"},
    "layers": {"core"},
    "models": {"core", "layers"},
    "checkpoint": {"core"},
    "train": {"core", "checkpoint"},
    "eval": {"core", "data"},
    "plan": {"core", "train"},
    "launch": {"core"},
    "doctor": {"core"},
    "convert": {"core", "layers", "models", "checkpoint"},
}
COMPOSITION = {"verbs", "__main__"}
DECODING = {f"eval/{name}.py" for name in ("beam", "candidates", "decode", "largest", "row_decode", "trie_decode")}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def uses(path: Path, module: str) -> bool:
    return any(name == module or name.startswith(module + ".") for name in imports(path))


def test_every_folder_has_its_row():
    assert {layer(path) for path in FILES} <= MAY_IMPORT.keys() | COMPOSITION


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_arrows_point_one_way(path):
    if layer(path) in COMPOSITION:
        return
    targets = {name.split(".")[1] for name in imports(path) if name.startswith(NAME + ".")}
    allowed = MAY_IMPORT[layer(path)] | {layer(path)}
    assert targets <= allowed, f"{relative(path)} imports {sorted(targets - allowed)}, may import {sorted(allowed)}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_fences(path):
    where, name = layer(path), relative(path)
    nnx_allowed = where in ("layers", "models") or name in ("core/module.py", "core/lora.py")
    assert nnx_allowed or not uses(path, "flax"), f"{name}: flax stays in modules"
    assert name == "core/lora.py" or not uses(path, "qwix"), f"{name}: qwix stays in core/lora.py"
    assert where in COMPOSITION or not (uses(path, "ml_collections") or uses(path, "absl")), (
        f"{name}: configurations and flags stay in verbs/"
    )
    torch_allowed = where == "convert"
    assert torch_allowed or not (uses(path, "torch") or uses(path, "transformers")), f"{name}: torch is no dependency"
    assert not uses(path, "tensorflow"), f"{name}: no TensorFlow"
    no_jax = where in ("data", "report", "synth") or (where == "eval" and name not in DECODING)
    assert not (no_jax and uses(path, "jax")), f"{name}: no jax here"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_size_and_name(path):
    assert path.stem not in ("utils", "util", "common", "misc", "helpers")
    source = path.read_text()
    assert len(source.splitlines()) <= 500, f"{relative(path)} is more than one idea"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 80, f"{relative(path)}:{node.lineno} {node.name} has {length} lines"


def test_importing_changes_nothing():
    """No module of ours touches global configuration when imported.

    `f.defvjp(...)` on a function of the same file belongs to the function's definition, like a decorator.
    """
    for path in FILES:
        body = ast.parse(path.read_text()).body
        own = {f"{node.name}.defvjp" for node in body if isinstance(node, ast.FunctionDef)}
        for node in body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                if ast.unparse(node.value.func) in own:
                    continue
                pytest.fail(f"{relative(path)}:{node.lineno} calls {ast.unparse(node.value)[:60]} at import")
            # `if __name__ == "__main__"` is the only statement that may run.


def test_core_install_needs_no_torch():
    """Torch and transformers are imported inside functions only, so that the core install works."""
    for path in FILES:
        if "modeling" in path.parts:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                heads = {name.split(".")[0] for name in names}
                assert not heads & {"torch", "transformers"}, f"{relative(path)}: {ast.unparse(node)}"
