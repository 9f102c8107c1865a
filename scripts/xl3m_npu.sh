#!/usr/bin/env bash
# Answers a question over a very long text on all Ascend cards of one or several nodes:
#
#   source /usr/local/Ascend/ascend-toolkit/set_env.sh
#   CARDS=8 scripts/xl3m_npu.sh ask book.txt --question "..." --run scores --model MODEL
#
# See xl3m_launch.sh for several nodes. Every variable below can be set beforehand.
# Written from the public documentation of CANN and torch_npu; no card has run it yet.
set -euo pipefail

# Which cards; ranks take them in this order. Unset = the first $CARDS.
CARDS=${CARDS:-$(if [ -n "${ASCEND_RT_VISIBLE_DEVICES:-}" ]; then
    tr ',' '\n' <<<"$ASCEND_RT_VISIBLE_DEVICES" | grep -c .
else
    echo 8
fi)}

# The ranks' first collective comes after each has loaded the model, and from a cold disk one may take minutes longer
# than another. The default, 120 s, is for ranks that start alike.
export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-1200}

# How long a collective waits for the slowest rank. npukv's ranks meet before each one, so this is not reached; it
# stays above npukv's own patience of 600 s, so that it is npukv's message one sees, which names the rank.
export HCCL_EXEC_TIMEOUT=${HCCL_EXEC_TIMEOUT:-1836}

# MB of card memory per buffer between cards. The ranks gather scores, a few KB; the default, 200, would take as much
# as several segments.
export HCCL_BUFFSIZE=${HCCL_BUFFSIZE:-64}

# Batches of different lengths leave holes in fixed blocks of memory; segments that can grow have none.
export PYTORCH_NPU_ALLOC_CONF=${PYTORCH_NPU_ALLOC_CONF:-expandable_segments:True}

# A second thread prepares launches while the first goes on: most of a short pass is launching.
export TASK_QUEUE_ENABLE=${TASK_QUEUE_ENABLE:-2}

# Nothing is summed across cards (scores are gathered), so results do not depend on HCCL_DETERMINISTIC.
# Several nodes find each other through one network interface; where there are several, name it:
# HCCL_SOCKET_IFNAME=eth0 (or the node's own address, HCCL_IF_IP).

. "$(dirname "$0")/xl3m_launch.sh"
launch npu "$@"
