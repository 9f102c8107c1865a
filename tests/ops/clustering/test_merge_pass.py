"""One pass of merging keys, values and degrees."""

from __future__ import annotations

import torch

from npukv.ops.clustering import merge_pass, soft_match


def arguments(dtype: torch.dtype = torch.float32) -> tuple:
    made = torch.Generator().manual_seed(4)
    keys, values = (torch.randn(2, 2, 70, 16, generator=made).to(dtype) for _ in range(2))
    degrees = torch.randint(1, 5, (2, 2, 70), generator=made).float()
    centre = torch.nn.functional.normalize(keys.float(), dim=-1).mean(2)
    return keys, values, degrees, soft_match(keys, centre, 2, 32, 20), 2, 32, 20


def test_means_by_degree_and_no_token_is_lost() -> None:
    keys, values, degrees, places, *plan = arguments()
    means = merge_pass(keys, values, degrees, places, *plan)
    assert [list(part.shape) for part in means] == [[2, 2, 50, 16], [2, 2, 50, 16], [2, 2, 50]]
    assert torch.equal(means[2].sum(-1), degrees.sum(-1))
    for place in range(50):
        there = (places[1, 0] == place).float() * degrees[1, 0]
        for x, mean in zip((keys, values), means[:2], strict=True):
            expected = (x[1, 0] * there[:, None]).sum(0) / there.sum()
            torch.testing.assert_close(mean[1, 0, place], expected)


def test_opcheck() -> None:
    torch.library.opcheck(merge_pass.overload, arguments())
    torch.library.opcheck(merge_pass.overload, arguments(torch.bfloat16))
