// The one function that lowered code calls: element-wise copy between strided memrefs of equal shape.
// Arguments as MLIR's ABI has them: element size, then two unranked memrefs (rank, pointer to the descriptor
// {allocated, aligned, offset, sizes[rank], strides[rank]}).
#include <cstdint>
#include <cstring>

struct Unranked {
    int64_t rank;
    int64_t* descriptor;
};

static char* first(const Unranked* view, int64_t bytes) {
    return reinterpret_cast<char*>(view->descriptor[1]) + view->descriptor[2] * bytes;
}

static void copy(char* to, const char* from, const int64_t* sizes, const int64_t* into, const int64_t* outof,
                 int64_t rank, int64_t bytes) {
    if (rank == 0) {
        std::memcpy(to, from, bytes);
        return;
    }
    for (int64_t i = 0; i < sizes[0]; ++i) {
        copy(to + i * into[0] * bytes, from + i * outof[0] * bytes, sizes + 1, into + 1, outof + 1, rank - 1, bytes);
    }
}

extern "C" void memrefCopy(int64_t bytes, const Unranked* source, const Unranked* target) {
    const int64_t rank = source->rank;
    const int64_t* sizes = source->descriptor + 3;
    copy(first(target, bytes), first(source, bytes), sizes, target->descriptor + 3 + rank, sizes + rank, rank, bytes);
}
