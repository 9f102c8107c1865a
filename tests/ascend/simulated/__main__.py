"""python -m tests.ascend.simulated MODULE ARGUMENTS: run a module in a process that has simulated cards."""

from __future__ import annotations

import os
import runpy
import sys

from tests.ascend.simulated import hccl
from tests.ascend.simulated.install import install

if __name__ == "__main__":
    install(cards=int(os.environ.get("LOCAL_WORLD_SIZE", "8")))
    hccl.register()
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
