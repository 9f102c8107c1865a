"""Binds calls of torch_npu, read from source, against the contract of a release. Nothing is run."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CONTRACTS = ROOT / "backends" / "ascend" / "contract"
VERSIONS = tuple(sorted(path.stem.partition("-")[2] for path in CONTRACTS.glob("torch_npu-*.json")))
CALLS = "backends/ascend/calls.py"
DEVICE = "backends/ascend/device.py"
#: Whose `m.def`s are the schemas of the custom operators.
BINDING = ROOT / "ops" / "ascendc" / "binding" / "binding.cpp"
NAMESPACES = ("torch.ops.npu", "torch.ops.atb", "torch.ops.npukv_ascendc")
#: backends/base.py drives streams, graphs and events of whichever card: what its names are on this one.
SHARED = "backends/base.py"
SHARED_NAMES = {
    "self._runtime": "",
    "self._stream": "Stream",
    "current": "Stream",
    "self._graph": "NPUGraph",
    "graph": "NPUGraph",
    "event": "Event",
}
#: Words torch's schemas cannot check.
WORDS = {"input_layout": {"BSH", "SBH", "BSND", "BNSD", "BNSD_BSND", "TND"}}


@dataclass(frozen=True)
class Site:
    """One place that calls, or names, something of torch_npu."""

    file: str
    line: int
    name: str  # "npu_rms_norm", or for torch.npu: "mem_get_info", "NPUGraph.replay"
    operator: bool
    call: ast.Call | None  # None where it is only named
    annotations: dict[str, str]  # of the enclosing function's arguments

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@cache
def contract(version: str) -> dict[str, Any]:
    return json.loads((CONTRACTS / f"torch_npu-{version}.json").read_text())


@cache
def operator_schemas(version: str) -> dict[str, Any]:
    import torch

    parsed = (torch._C.parse_schema(text) for text in [*contract(version)["operators"], *custom_schemas()])
    return {schema.name + ("." + schema.overload_name if schema.overload_name else ""): schema for schema in parsed}


def custom_schemas() -> list[str]:
    """What the binding of ops/ascendc defines: strings that C++ joins."""
    found = re.findall(r'm\.def\(((?:\s*"[^"]*")+)\)', BINDING.read_text(encoding="utf-8"))
    return ["".join(re.findall(r'"([^"]*)"', text)) for text in found]


def package_files() -> list[Path]:
    return [path for package in ("npukv", "ops", "backends") for path in sorted((ROOT / package).rglob("*.py"))]


def sites(source: str, file: str) -> Iterator[Site]:
    """Every use of torch_npu in a file."""
    tree = ast.parse(source)
    for function, nodes in _by_function(tree):
        annotations = _annotations(function)
        runtime = {
            node.targets[0].id
            for node in nodes
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and ast.unparse(node.value) == "_npu()"
        }
        called = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if not isinstance(node, ast.Attribute):
                continue
            receiver = ast.unparse(node.value)
            if receiver in NAMESPACES:
                name, operator = node.attr, True
            elif receiver in ("torch.npu", "_npu()") or receiver in runtime:
                name, operator = node.attr, False
            elif file == SHARED and receiver in SHARED_NAMES:
                name, operator = ".".join(filter(None, (SHARED_NAMES[receiver], node.attr))), False
            else:
                continue
            yield Site(file, node.lineno, name, operator, called.get(id(node)), annotations)


def strays(source: str, file: str) -> list[str]:
    """Uses of torch_npu outside the files that may have them."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        for name in names:
            operators = name.startswith(tuple(f"{namespace}." for namespace in NAMESPACES))
            runtime = name.split(".")[0] == "torch_npu" or name.startswith("torch.npu")
            if (operators and file != CALLS) or (runtime and file not in (DEVICE, CALLS)):
                found.append(f"{file}:{node.lineno} uses {name}")
    return found


def violations(site: Site, version: str) -> list[str]:
    """Why a site does not fit a release; empty = it does."""
    if site.operator:
        return _operator_violations(site, version)
    return _runtime_violations(site, version)


def _operator_violations(site: Site, version: str) -> list[str]:
    schema = operator_schemas(version).get(site.name)
    if schema is None:
        return [f"{site.where} {site.name}: no such operator"]
    if site.call is None:
        return [f"{site.where} {site.name}: named but not called here"]
    arguments = list(schema.arguments)
    by_name = {argument.name: argument for argument in arguments}
    given: dict[str, ast.expr] = {}
    problems = []
    positional = [argument for argument in arguments if not argument.kwarg_only]
    if len(site.call.args) > len(positional):
        problems.append(f"takes {len(positional)} positional arguments, got {len(site.call.args)}")
    for argument, value in zip(positional, site.call.args, strict=False):
        given[argument.name] = value
    for keyword in site.call.keywords:
        if keyword.arg not in by_name:
            problems.append(f"has no argument {keyword.arg!r}")
        elif keyword.arg in given:
            problems.append(f"got {keyword.arg!r} twice")
        else:
            given[keyword.arg] = keyword.value
    problems += [
        f"misses {argument.name!r}"
        for argument in arguments
        if argument.name not in given and not argument.has_default_value()
    ]
    for name, value in given.items():
        if name not in by_name:
            continue
        expected, got = str(by_name[name].type), _type_of(value, site.annotations)
        if got is None:
            problems.append(f"{name}={ast.unparse(value)}: its type cannot be seen here")
        elif not _fits(got, expected, name):
            problems.append(f"{name}={ast.unparse(value)} is {got}, expected {expected}")
        if name in WORDS and isinstance(value, ast.Constant) and value.value not in WORDS[name]:
            problems.append(f"{name}={value.value!r}, expected one of {sorted(WORDS[name])}")
    return [f"{site.where} {site.name}: {problem}" for problem in problems]


def _runtime_violations(site: Site, version: str) -> list[str]:
    owner, _, method = site.name.partition(".")
    known = contract(version)["python"].get(owner)
    if known is None:
        return [f"{site.where} torch.npu.{owner}: not defined in Python by this release"]
    if isinstance(known, dict):
        method = method or ("__new__" if "__new__" in known else "__init__")
        if method not in known:
            return [f"{site.where} torch.npu.{site.name}: {owner} has no {method}"]
        text = known[method].replace("(self, ", "(", 1).replace("(cls, ", "(", 1)
        text = "()" if text in ("(self)", "(cls)") else text
    else:
        text = known
    if site.call is None:
        return []
    namespace: dict[str, Any] = {}
    exec(f"def probe{text}: ...", namespace)
    try:
        inspect.signature(namespace["probe"]).bind(
            *site.call.args, **{str(keyword.arg): keyword.value for keyword in site.call.keywords}
        )
    except TypeError as error:
        return [f"{site.where} torch.npu.{site.name}{text}: {error}"]
    return []


def _by_function(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | None, list[ast.AST]]]:
    """The nodes of each outermost function or method, and those outside any."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and id(node) not in inside:
            nodes = list(ast.walk(node))
            inside.update(map(id, nodes))
            yield node, nodes
    yield None, [node for node in ast.walk(tree) if id(node) not in inside]


def _annotations(function: ast.FunctionDef | None) -> dict[str, str]:
    if function is None:
        return {}
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {argument.arg: ast.unparse(argument.annotation) for argument in arguments if argument.annotation}


def _type_of(value: ast.expr, annotations: dict[str, str]) -> str | None:
    if isinstance(value, ast.Constant):
        return type(value.value).__name__
    if isinstance(value, ast.Name):
        return annotations.get(value.id)
    return None


def _fits(got: str, expected: str, name: str) -> bool:
    """Whether a Python type may be given for a schema's type, as torch prints it ("Optional[Tensor]", "List[int]")."""
    optional = expected.startswith("Optional[")
    inner = expected.removeprefix("Optional[").removesuffix("]") if optional else expected
    parts = {part.strip() for part in got.split("|")}
    if parts & {"None", "NoneType"} and not optional:
        return False
    takes = {
        "Tensor": {"torch.Tensor"},
        "List[Tensor]": {"list[torch.Tensor]"},
        "int": {"int"},
        "SymInt": {"int"},
        "float": {"float", "int"},
        "bool": {"bool"},
        "str": {"str"},
        "List[int]": {"list[int]"},
        "List[SymInt]": {"list[int]"},
        "List[int": {"list[int]"},
        "List[SymInt": {"list[int]"},
    }
    if parts == {"torch.dtype"}:  # a number in the schema: torch takes its own types for it, by either name
        return inner in ("int", "ScalarType") and name.endswith(("dtype", "dst_type"))
    return parts - {"None", "NoneType"} <= takes.get(inner, set())
