"""Lowers Triton kernels to linalg with triton-ascend.

Run by the Python of triton-ascend's own environment, since that package owns the name `triton`; it needs neither CANN,
nor torch, nor this package. Reads one request per line, {"source", "name", "signature", "constants"}, and answers one
line each: {"linalg"} or {"error"}.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

#: triton-adapter-opt 3.2.0 dies of a signal once in a few hundred times on code that it lowers at the next try.
TRIES = 3


def load(source: str, folder: Path) -> ModuleType:
    """The kernels as a module on disk: triton reads their source back from the file."""
    name = "kernels_" + hashlib.sha256(source.encode()).hexdigest()[:16]
    if name not in sys.modules:
        path = folder / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"no module can be made of {path}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def lower(kernel: Any, signature: dict[str, str], constants: dict[str, Any]) -> str:
    """The kernel as linalg on tensors and memrefs, as text; the target only names the family of the chip."""
    from triton._C.libtriton import ir
    from triton.backends.ascend.compiler import AscendBackend, make_ttir, ttir_to_linalg
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    backend = AscendBackend(GPUTarget("npu", "Ascend910B3", 0))
    options = backend.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = ASTSource(kernel, signature, constants)
    module = source.make_ir(options, backend.get_codegen_implementation(), backend.get_module_map(), context)
    metadata = {"hash": kernel.__name__, **options.__dict__}
    tensors = make_ttir(module, metadata, options)
    for _ in range(TRIES - 1):
        try:
            return ttir_to_linalg(tensors, metadata, options, named_ops=True)
        except subprocess.CalledProcessError as error:
            if error.returncode >= 0:
                raise
    return ttir_to_linalg(tensors, metadata, options, named_ops=True)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the compiler prints is no answer
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                kernel = getattr(load(request["source"], Path(folder)), request["name"])
                answer = {"linalg": lower(kernel, request["signature"], request["constants"])}
            except subprocess.CalledProcessError as error:
                answer = {"error": (error.stderr or b"").decode(errors="replace")[:4000]}
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                answer = {"error": f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
