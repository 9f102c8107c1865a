# Sourced by xl3m_npu.sh and xl3m_cuda.sh: one rank per card through torchrun, restarted from the journals when one dies.
#
#   CARDS    cards of this node
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT    for several nodes: the same command on each, with its own NODE_RANK
#   RESTARTS    how often all ranks start again after one was lost (3)
#   NPUKV_PYTHON    the Python that has npukv

# launch DEVICE ARGUMENTS-OF-NPUKV...
launch() {
    local device=$1 python=${NPUKV_PYTHON:-} here
    shift
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ -z "$python" ]; then
        python=$here/.venv/bin/python
        [ -x "$python" ] || python=python3
    fi
    if [ $# -eq 0 ] || [ "$1" = --help ]; then
        printf 'usage: CARDS=8 %s ask FILE... --question QUESTION --run DIRECTORY [options of npukv]\n' "$0" >&2
        exit 2
    fi
    case " $* " in
    *" --run "* | *" --run="*) ;;
    *)
        printf '%s: got no --run DIRECTORY, expected one: the journals there are what a restart goes on from\n' "$0" >&2
        exit 2
        ;;
    esac
    # Each rank computes on its card; what is left for the processor is tokenising and launching. More threads than
    # cores, which is what every rank taking all of them comes to, slow all ranks down.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + CARDS - 1) / CARDS))}
    exec "$python" -m torch.distributed.run \
        --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$CARDS" \
        --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:-localhost}:${MASTER_PORT:-29517}" \
        --max-restarts "${RESTARTS:-3}" -m -- ${NPUKV_WRAPPER:-} npukv.cli "$@" --device "$device"
}
