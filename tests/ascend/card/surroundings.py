"""What the machine has, and whether the calls npukv makes fit the torch_npu that is installed. One JSON object."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from npukv.backends import select
from npukv.environment import environment

VARIABLES = re.compile(r"^(ASCEND|HCCL|TASK_QUEUE|PYTORCH_NPU|CANN|NPU|OMP_NUM|LD_LIBRARY)")


def cann() -> str:
    """The toolkit's version, from the files it installs."""
    for variable in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        root = Path(os.environ.get(variable, "/nonexistent"))
        for name in ("version.cfg", "compiler/version.info", "opp/version.info", "runtime/version.info"):
            if (root / name).exists():
                return f"{root}: {(root / name).read_text(errors='replace').strip()[:300]}"
    return ""


def hccl() -> str:
    """Where the collective library is."""
    for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if folder and (Path(folder) / "libhccl.so").exists():
            return str(Path(folder) / "libhccl.so")
    return ""


def schemas() -> list[str]:
    """Operators npukv calls whose schema in this process is not the contract's."""
    from tests.ascend.binding import custom_schemas, operator_schemas, package_files, sites

    version = sys.modules["torch_npu"].__version__.partition("+")[0].partition(".post")[0]
    known = operator_schemas(version if version in ("2.9.0", "2.13.0") else "2.13.0")
    names = {site.name for path in package_files() for site in sites(path.read_text(), str(path)) if site.operator}
    names -= {schema.partition("(")[0] for schema in custom_schemas()}  # not torch_npu's: the part "custom" builds them
    found = []
    for name in sorted(names):
        here = getattr(torch.ops.npu, name, None)
        if here is None:
            found.append(f"{name} is not there")
            continue
        mine = [(argument.name, str(argument.type)) for argument in here.default._schema.arguments]
        theirs = [(argument.name, str(argument.type)) for argument in known[name].arguments]
        if mine != theirs:
            found.append(f"{name}: {set(mine) ^ set(theirs)}")
    return found


def main() -> int:
    device = select("npu")
    smi = shutil.which("npu-smi")
    listed = subprocess.run([smi, "info"], capture_output=True, text=True).stdout if smi else ""
    installed = sys.modules["torch_npu"].__version__
    said = {
        "torch": torch.__version__,
        "torch_npu": installed,
        "matching": installed.split(".")[:3] == torch.__version__.partition("+")[0].split(".")[:3]
        or installed.partition("+")[0].partition(".post")[0] == torch.__version__.partition("+")[0],
        "card": device.description(),
        "cards": torch.accelerator.device_count(),
        "free memory": device.free_memory(),
        "CANN": cann(),
        "HCCL": hccl(),
        "npu-smi": listed[:4000],
        "schemas that differ": schemas(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if VARIABLES.match(name)},
        "environment": environment(),
    }
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
