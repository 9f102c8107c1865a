#!/usr/bin/env bash
# Answers a question over a very long text on all CUDA cards of one or several nodes:
#
#   CARDS=8 scripts/xl3m_cuda.sh ask book.txt --question "..." --run scores --model MODEL
#
# See xl3m_launch.sh for several nodes. Every variable below can be set beforehand.
set -euo pipefail

# Which cards: CUDA_VISIBLE_DEVICES, in its order; unset = all.
CARDS=${CARDS:-$(if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .
else
    nvidia-smi --list-gpus 2>/dev/null | grep -c . || true
fi)}
[ "${CARDS:-0}" -gt 0 ] || {
    printf '%s: nvidia-smi lists no card; set CARDS\n' "$0" >&2
    exit 1
}

# Batches of different lengths leave holes in fixed blocks of memory; segments that can grow have none.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}

# A rank that hangs in a collective is ended with a message instead of waiting for good.
export TORCH_NCCL_ASYNC_ERROR_HANDLING=${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}

# Several nodes: where there are several network interfaces, name the one between them: NCCL_SOCKET_IFNAME=eth0.

. "$(dirname "$0")/xl3m_launch.sh"
launch cuda "$@"
