"""Asks the card what the vendor's documentation does not say; npukv does not depend on the answers. One line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch

from npukv.backends import select
from npukv.backends.ascend import calls


def attend(keys: int, lengths: list[int] | None = None, shift: torch.Tensor | None = None, scale: float = 0.125):
    """One query of four heads over keys of one, float16; with the reference's scores."""
    device = select("npu").torch_device
    made = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(1, h, n, 64, generator=made).half() for h, n in ((4, 1), (1, keys), (1, keys)))
    placed = (x.to(device) for x in (query, key, value))
    moved = None if shift is None else shift.to(device)
    out, lse = calls.fused_infer_attention(*placed, moved, None, lengths, 4, 1, scale, calls.FULL_MASK)
    return out.cpu(), lse.cpu().flatten(), (query.double() @ key.double().transpose(-1, -2)).flatten(0, -2)  # [4, C]


def order_of_scale_and_shift() -> str:
    shift = torch.linspace(-4, 4, 200).half().expand(1, 4, 1, 200).contiguous()
    _, lse, products = attend(200, shift=shift)
    added = shift[0, 0, 0].double()
    choices = {
        "scaled, then shifted": (products * 0.125 + added).logsumexp(-1),
        "shifted, then scaled": ((products + added) * 0.125).logsumexp(-1),
    }
    errors = {name: float((lse - expected).abs().max()) for name, expected in choices.items()}
    best = min(errors, key=errors.__getitem__)
    return f"{best} (differs by {errors[best]:.1e})" if errors[best] < 0.02 else f"neither: {errors}"


def a_row_that_sees_nothing() -> str:
    out, lse, _ = attend(200, lengths=[0])
    return f"output {out.flatten()[:3].tolist()}, log-sum-exp {lse[:2].tolist()}"


def infinite_shift() -> str:
    shift = torch.zeros(1, 4, 1, 200).half()
    shift[..., 100:] = float("-inf")
    out, _, _ = attend(200, shift=shift)
    return "NaN" if bool(out.isnan().any()) else "no NaN"


def not_a_number_behind_the_length() -> str:
    device = select("npu").torch_device
    value = torch.ones(1, 1, 200, 64).half()
    value[:, :, 150:] = float("nan")
    x = torch.ones(1, 1, 200, 64).half().to(device)
    out, _ = calls.fused_infer_attention(
        x[:, :, :1].contiguous(), x, value.to(device), None, None, [150], 1, 1, 0.125, calls.FULL_MASK
    )
    return "is read" if bool(out.cpu().isnan().any()) else "is not read"


def bit_of_zero() -> str:
    device = select("npu").torch_device
    packed = calls.sign_bits_pack(torch.tensor([0.0, -0.0, 1.0, -1.0] * 2, device=device))
    return f"+0, -0, 1, -1 twice pack to {int(packed.cpu().flatten()[0]):#010b} (bit 0 first: rightmost)"


def codes_of_zeros() -> str:
    device = select("npu").torch_device
    codes, scale = calls.dynamic_quant(torch.zeros(2, 64, dtype=torch.float16, device=device))
    return f"codes {codes.cpu().flatten()[:3].tolist()}, scale {scale.cpu().tolist()}"


PROBES: dict[str, Callable[[], str]] = {
    "the order of scale and pse_shift": order_of_scale_and_shift,
    "attention of a row of length 0": a_row_that_sees_nothing,
    "a pse_shift of -inf gives": infinite_shift,
    "NaN behind actual_seq_lengths_kv": not_a_number_behind_the_length,
    "the sign bits of zeros": bit_of_zero,
    "a row of zeros in 8 bits": codes_of_zeros,
}


def main() -> int:
    for name, probe in PROBES.items():
        try:
            answer = probe()
        except Exception as error:  # an answer as well
            answer = f"{type(error).__name__}: {str(error)[:300]}"
        print(json.dumps({"probe": name, "answer": answer}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
