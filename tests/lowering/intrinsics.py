"""Bodies for what lowered kernels leave to Ascend's own compiler: histograms and running sums of integers.

Their meaning is Triton's. A value outside of a histogram's bins is an error here (it aborts), since Triton leaves it
undefined.
"""

from __future__ import annotations

import re

HISTOGRAM = re.compile(r"hfusion\.histogram (%\w+), (\d+) : tensor<(\d+)x(i\d+)> -> tensor<\d+x(i\d+)>")
RUNNING_SUM = re.compile(
    r"func\.func private @(triton_cumsum_\d+)\(tensor<(\d+)x(i\d+|f\d+)>, i32, i1\) -> tensor<[^>]*>"
)


def with_bodies(linalg: str) -> str:
    """Lowered code in which calls of the two have functions to go to; others are left as they are."""
    functions: dict[str, str] = {}

    def counted(found: re.Match[str]) -> str:
        operand, bins, length, value, count = found.groups()
        name = f"histogram_{length}_{value}_{bins}_{count}"
        functions[name] = _histogram(name, int(bins), int(length), value, count)
        return f"func.call @{name}({operand}) : (tensor<{length}x{value}>) -> tensor<{bins}x{count}>"

    def summed(found: re.Match[str]) -> str:
        return _running_sum(*found.groups())

    code = RUNNING_SUM.sub(summed, HISTOGRAM.sub(counted, linalg))
    end = code.rindex("}")
    return code[:end] + "".join(functions.values()) + code[end:]


def _histogram(name: str, bins: int, length: int, value: str, count: str) -> str:
    return f"""
  func.func private @{name}(%values: tensor<{length}x{value}>) -> tensor<{bins}x{count}> {{
    %first = arith.constant 0 : index
    %step = arith.constant 1 : index
    %length = arith.constant {length} : index
    %bins = arith.constant {bins} : index
    %one = arith.constant 1 : {count}
    %zero = arith.constant 0 : {count}
    %empty = tensor.empty() : tensor<{bins}x{count}>
    %start = linalg.fill ins(%zero : {count}) outs(%empty : tensor<{bins}x{count}>) -> tensor<{bins}x{count}>
    %counts = scf.for %i = %first to %length step %step iter_args(%so_far = %start) -> (tensor<{bins}x{count}>) {{
      %value = tensor.extract %values[%i] : tensor<{length}x{value}>
      %bin = arith.index_cast %value : {value} to index
      %inside = arith.cmpi ult, %bin, %bins : index
      cf.assert %inside, "a value outside of the histogram's bins"
      %old = tensor.extract %so_far[%bin] : tensor<{bins}x{count}>
      %new = arith.addi %old, %one : {count}
      %next = tensor.insert %new into %so_far[%bin] : tensor<{bins}x{count}>
      scf.yield %next : tensor<{bins}x{count}>
    }}
    return %counts : tensor<{bins}x{count}>
  }}
"""


def _running_sum(name: str, length: str, kind: str) -> str:
    add = "arith.addi" if kind.startswith("i") else "arith.addf"
    zero = "0" if kind.startswith("i") else "0.0"
    tensor = f"tensor<{length}x{kind}>"
    return f"""func.func private @{name}(%values: {tensor}, %axis: i32, %reverse: i1) -> {tensor} {{
    %first = arith.constant 0 : index
    %step = arith.constant 1 : index
    %length = arith.constant {length} : index
    %zero = arith.constant {zero} : {kind}
    %true = arith.constant true
    %forward = arith.xori %reverse, %true : i1
    cf.assert %forward, "sums from the end are not supported"
    %empty = tensor.empty() : tensor<{length}x{kind}>
    %sums:2 = scf.for %i = %first to %length step %step iter_args(%so_far = %empty, %sum = %zero)
        -> (tensor<{length}x{kind}>, {kind}) {{
      %value = tensor.extract %values[%i] : tensor<{length}x{kind}>
      %new = {add} %sum, %value : {kind}
      %next = tensor.insert %new into %so_far[%i] : tensor<{length}x{kind}>
      scf.yield %next, %new : tensor<{length}x{kind}>, {kind}
    }}
    return %sums#0 : tensor<{length}x{kind}>
  }}"""
