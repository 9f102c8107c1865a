"""Given to pytest with -p: makes `npu` a device before anything is collected."""

from __future__ import annotations

from tests.ascend.simulated.install import install

runtime = install(cards=4)
