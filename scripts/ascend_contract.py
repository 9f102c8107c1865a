"""Extracts from a downloaded torch-npu wheel what calls can be checked against, without installing it.

    pip download --no-deps torch-npu==2.13.0 && python scripts/ascend_contract.py torch_npu-2.13.0-*.whl

writes backends/ascend/contract/torch_npu-2.13.0.json: the schemas of its operators, the aten operators it has kernels
for, and the signatures of the Python functions of torch.npu. (With the wheel installed and no CANN, torch itself does
not import; so it is only read.) Run under the torch version the wheel is for: schemas are parsed by torch.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "backends" / "ascend" / "contract"
LIBRARIES = ("torch_npu/lib/libtorch_npu.so", "torch_npu/lib/libop_plugin_atb.so")
LISTS = ("torch_npu/csrc/aten/npu_native_functions.yaml", "torch_npu/csrc/aten/npu_native_functions_by_codegen.yaml")
PYTHON = "torch_npu/npu/"

_SCHEMA = re.compile(rb"(?:[a-z_]+::)?[A-Za-z_]\w*(?:\.\w+)?\([\x20-\x7e]*\) -> [\x20-\x7e]+")
_LISTED = re.compile(r"^\s*(?:-\s+)?(?:func:\s+)?['\"]?([A-Za-z_]\w*(?:\.\w+)?)['\"]?(?=$|\()")


class ContractError(Exception):
    """The file is no torch-npu wheel, or holds none of what is looked for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=OUT, help="folder the JSON goes to")
    arguments = parser.parse_args()
    try:
        contract, unparsed = extract(arguments.wheel)
    except (ContractError, OSError, zipfile.BadZipFile) as error:
        sys.exit(f"{arguments.wheel}: {error}")
    path = arguments.out / f"torch_npu-{contract['version']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contract, indent=0, ensure_ascii=True) + "\n")
    counts = {name: len(part) for name, part in contract.items() if isinstance(part, list | dict)}
    print(f"{path.name}: {counts}; {len(unparsed)} strings that look like schemas do not parse")


def extract(wheel: Path) -> tuple[dict[str, Any], list[str]]:
    """The contract, and the strings that look like schemas but are none."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        absent = [name for name in (*LIBRARIES, *LISTS, PYTHON + "__init__.py") if name not in names]
        if absent:
            raise ContractError(f"got a wheel without {', '.join(absent)}; expected torch-npu's")
        binary = b"\0".join(archive.read(name) for name in LIBRARIES)
        operators, unparsed = schemas(binary)
        listed = {name for file in LISTS for name in kernels_listed(archive.read(file).decode())}
        sources = {
            name.removeprefix(PYTHON).removesuffix(".py"): archive.read(name).decode()
            for name in names
            if name.startswith(PYTHON) and name.endswith(".py") and "/" not in name.removeprefix(PYTHON)
        }
    contract = {
        "version": wheel.name.split("-")[1],
        "wheel": wheel.name,
        "operators": operators,
        # listed, and a string of the library: a name in the list alone may never have been built
        "kernels": sorted(name for name in listed if name.encode() + b"\0" in binary),
        "python": public_functions(sources),
    }
    return contract, unparsed


def schemas(binary: bytes) -> tuple[list[str], list[str]]:
    """Every operator schema among a library's strings; and those torch cannot read."""
    import torch

    found, unparsed = set(), []
    for string in re.findall(rb"[\x20-\x7e]{8,}", binary):
        if not _SCHEMA.fullmatch(string):
            continue
        try:
            torch._C.parse_schema(string.decode())
        except RuntimeError:
            unparsed.append(string.decode())
        else:
            found.add(string.decode())
    return sorted(found), unparsed


def kernels_listed(text: str) -> set[str]:
    """Names under `supported:` of torch_npu's lists of native functions: aten operators it registers kernels for."""
    names, inside = set(), False
    for line in text.splitlines():
        if re.match(r"\w", line):  # a new section
            inside = line.startswith("supported:")
        elif inside and re.match(r"^\s*-\s+[A-Za-z_][\w.]*$|^\s*(-\s+)?func:", line):
            match = _LISTED.match(line)
            if match:
                names.add(match.group(1))
    return names


def public_functions(sources: dict[str, str]) -> dict[str, Any]:
    """What `torch.npu.NAME` is, for every name torch_npu.npu exports and defines in Python.

    Returns:
        {name: "(signature)"}, and for classes {name: {method: "(signature)"}}.
    """
    trees = {name: ast.parse(text) for name, text in sources.items()}
    defined = {
        module: {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for module, tree in trees.items()
    }
    exported: list[str] = []
    origin: dict[str, str] = {}
    for node in trees["__init__"].body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            exported = ast.literal_eval(node.value)
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module in defined:
            for alias in node.names:
                names = defined[node.module] if alias.name == "*" else [alias.name]
                origin.update(dict.fromkeys(names, node.module))
    result: dict[str, Any] = {}
    for name in exported:
        node = defined["__init__"].get(name) or defined.get(origin.get(name, ""), {}).get(name)
        if isinstance(node, ast.FunctionDef):
            result[name] = f"({ast.unparse(_bare(node.args))})"
        elif isinstance(node, ast.ClassDef):
            result[name] = {
                part.name: f"({ast.unparse(_bare(part.args))})"
                for part in node.body
                if isinstance(part, ast.FunctionDef)
                and (not part.name.startswith("_") or part.name in ("__init__", "__new__"))
            }
    return dict(sorted(result.items()))


def _bare(arguments: ast.arguments) -> ast.arguments:
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    return arguments


if __name__ == "__main__":
    main()
