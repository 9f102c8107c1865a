"""The house: imports point one way, devices are named in one place, nothing heavy happens at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("npukv", "ops", "backends")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
HEAVY = ("torch", "transformers", "matplotlib")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "npukv" else ("npukv", *parts))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules a file imports, also inside functions."""
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    package = [part for part in package if part != "__init__"]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            yield base or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_there_is_something_to_look_at() -> None:
    found = {package: sum(named(path).startswith(package + "/") for path in FILES) for package in PACKAGES}
    assert found["npukv"] > 20
    assert found["ops"] > 3
    assert found["backends"] > 5


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_point_one_way(path: Path) -> None:
    """npukv -> npukv.ops -> npukv.backends; backends import nothing of the others."""
    package = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        if name.split(".")[0] != "npukv":
            assert name.split(".")[0] not in ("ops", "backends"), f"{name}: say npukv.{name}"
            continue
        into = name.split(".")[1] if "." in name else ""
        allowed = {"npukv": True, "ops": into in ("ops", "backends"), "backends": into == "backends"}
        assert allowed[package], f"{named(path)} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if "backends" not in path.parts], ids=named)
def test_only_backends_name_devices(path: Path) -> None:
    """Operators may where they register a kernel for one: `operator.kernel("cuda", ...)`."""
    tree = tree_of(path)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and path.relative_to(ROOT).parts[0] == "ops"]
    registered = {
        call.args[0] for call in calls if call.args and ast.unparse(call.func).endswith((".kernel", ".kernel_by_name"))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in registered:
            words = node.value.partition(":")[0]
            assert words not in ("cuda", "npu"), f"{named(path)}:{node.lineno} names the device {node.value!r}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            assert node.attr not in ("cuda", "npu"), f"{named(path)}:{node.lineno} uses torch.{node.attr}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("cuda", "npu", "is_cuda", "is_npu"), f"{named(path)}:{node.lineno} .{node.attr}"
    assert "torch_npu" not in set(imports(path))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_asserts_and_no_swallowed_exceptions(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        assert not isinstance(node, ast.Assert), f"{named(path)}:{node.lineno} asserts; users need an error"
        if isinstance(node, ast.ExceptHandler):
            where = f"{named(path)}:{node.lineno}"
            assert node.type is not None, f"{where} catches everything"
            caught = ast.unparse(node.type)
            ignored = all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)
            broad = any(name in caught.split(".")[-1] for name in ("BaseException",)) or caught == "Exception"
            assert not (broad and ignored), f"{where} swallows {caught}"
            if caught == "BaseException":
                assert any(isinstance(part, ast.Raise) for part in ast.walk(node)), f"{where} keeps what it caught"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_says_what_it_is_and_stays_short(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def loaded_by(code: str) -> set[str]:
    """Top-level packages in sys.modules after some code, in a new process."""
    program = f"import sys\n{code}\nprint(sorted({{name.split('.')[0] for name in sys.modules}}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stderr.strip().splitlines()[-1]))


def command_line(arguments: list[str], status: int) -> str:
    """Code that runs `npukv ARGUMENTS` and checks its exit status."""
    return f"""
import npukv.cli
sys.argv = ["npukv", *{arguments!r}]
code = 0
try:
    npukv.cli.main()
except SystemExit as stop:
    code = stop.code or 0
assert code == {status}, code
"""


def test_importing_npukv_is_light() -> None:
    assert not loaded_by("import npukv, npukv.errors, npukv.backends, npukv.bundled") & {*HEAVY, "numpy", "typer"}


def test_help_is_light() -> None:
    for command in ([], ["ask"], ["score"], ["eval"], ["sample"], ["info"]):
        assert not loaded_by(command_line([*command, "--help"], 0)) & {*HEAVY, "numpy"}, command


@pytest.mark.parametrize("wrong", [["nothing.txt"], ["--question", " "], ["--measure", "best"]])
def test_bad_input_is_refused_without_loading_anything(tmp_path: Path, wrong: list[str]) -> None:
    """A wrong path, question or measure costs no wait for torch."""
    (tmp_path / "book.txt").write_text("In the beginning")
    code = command_line(["ask", str(tmp_path / "book.txt"), "-q", "Who?", *wrong], 2)
    assert not loaded_by(code) & {"torch", "transformers"}


def test_public_names_are_there() -> None:
    import npukv

    assert all(getattr(npukv, name) is not None for name in npukv.__all__)
    assert npukv.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = npukv.nonsense
