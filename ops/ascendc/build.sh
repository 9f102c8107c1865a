#!/usr/bin/env bash
# Builds and installs the custom operators and their binding for torch, on a machine with CANN and torch_npu.
#
#   build.sh [--check] [CHIP]
#
# CHIP: the name that `npu-smi info` shows, e.g. Ascend910B3 (default: asked from npu-smi). --check: only say what is
# missing. Everything that is made lies in build/ascendc at the root of the checkout; the operators are installed into
# CANN's folder of custom operators.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$here/../../build/ascendc
check=false
if [ "${1:-}" = --check ]; then
    check=true
    shift
fi

missing=()
for variable in ASCEND_TOOLKIT_HOME ASCEND_HOME_PATH; do
    toolkit=${!variable:-}
    [ -z "$toolkit" ] || break
done
[ -n "$toolkit" ] || missing+=("CANN: neither ASCEND_TOOLKIT_HOME nor ASCEND_HOME_PATH is set (source CANN's set_env.sh)")
generator=$(command -v msopgen || echo "$toolkit/python/site-packages/bin/msopgen")
[ -x "$generator" ] || missing+=("msopgen, which comes with CANN's toolkit: not on PATH")
for tool in cmake g++ python3; do
    command -v "$tool" >/dev/null || missing+=("$tool: not on PATH")
done
python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None or u.find_spec("torch_npu") is None)' \
    2>/dev/null || missing+=("torch and torch_npu for $(command -v python3 || echo python3)")
chip=${1:-}
if [ -z "$chip" ]; then
    chip=$(npu-smi info 2>/dev/null | grep -o -m 1 -E '910[A-Z][0-9A-Za-z]*' || true)
    [ -z "$chip" ] || chip=Ascend$chip
fi
[ -n "$chip" ] || missing+=("the chip: npu-smi shows none; name it, e.g. $0 Ascend910B3")
if [ ${#missing[@]} -gt 0 ]; then
    printf 'missing: %s\n' "${missing[@]}" >&2
    exit 1
fi
echo "CANN at $toolkit, chip $chip"
if $check; then exit 0; fi

# The project around the sources is the installed CANN's own, so that it fits its version; the sources are ours.
rm -rf "$build/project"
mkdir -p "$build"
"$generator" gen -i "$here/operators.json" -c "ai_core-$chip" -f aclnn -lan cpp -out "$build/project"
cp "$here"/op_host/*.cpp "$here"/op_host/*.h "$build/project/op_host/"
cp "$here"/op_kernel/*.cpp "$build/project/op_kernel/"
(cd "$build/project" && bash build.sh)
package=$(ls "$build"/project/build_out/custom_opp_*.run | head -n 1)
bash "$package" --quiet

vendor=${ASCEND_OPP_PATH:-$toolkit/opp}/vendors/customize
export TOOLKIT=$toolkit VENDOR=$vendor SOURCE=$here/binding/binding.cpp BUILD=$build/binding
mkdir -p "$BUILD"
python3 - <<'PYTHON'
import os
from pathlib import Path

import torch_npu
from torch.utils import cpp_extension

torch_npu = Path(torch_npu.__file__).parent
toolkit, vendor = os.environ["TOOLKIT"], os.environ["VENDOR"]
cpp_extension.load(
    name="npukv_ascendc",
    sources=[os.environ["SOURCE"]],
    build_directory=os.environ["BUILD"],
    is_python_module=False,
    extra_include_paths=[str(torch_npu / "include"), f"{toolkit}/include", f"{vendor}/op_api/include"],
    extra_ldflags=[
        f"-L{torch_npu / 'lib'}", "-ltorch_npu",
        f"-L{toolkit}/lib64", "-lascendcl", "-lnnopbase",
        f"-L{vendor}/op_api/lib", "-lcust_opapi", f"-Wl,-rpath,{vendor}/op_api/lib",
    ],
)
PYTHON
echo "the binding: $BUILD/npukv_ascendc.so (torch.ops.load_library), operators torch.ops.npukv_ascendc.*"
