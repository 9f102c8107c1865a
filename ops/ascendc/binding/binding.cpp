// The custom operators as torch operators: npukv_ascendc::hamming_blocks and npukv_ascendc::centroid_merge, for tensors
// on the card (in two steps, as aclnn has them: ask for the workspace, then launch on the current stream) and for
// meta tensors.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "acl/acl.h"
#include "aclnn/acl_meta.h"
#include "aclnn_centroid_merge.h"
#include "aclnn_hamming_blocks.h"
#include "torch_npu/csrc/core/npu/NPUStream.h"

namespace {

using at::Tensor;

aclDataType type_of(const Tensor& tensor) {
    switch (tensor.scalar_type()) {
        case at::kFloat: return ACL_FLOAT;
        case at::kHalf: return ACL_FLOAT16;
        case at::kBFloat16: return ACL_BF16;
        case at::kInt: return ACL_INT32;
        default: TORCH_CHECK(false, "got ", tensor.scalar_type(), ", expected float32, float16, bfloat16 or int32");
    }
}

// A contiguous tensor as aclnn takes it, for the length of a call.
class Described {
public:
    explicit Described(const Tensor& tensor)
        : handle(aclCreateTensor(tensor.sizes().data(), tensor.dim(), type_of(tensor), tensor.strides().data(), 0,
                                 ACL_FORMAT_ND, tensor.sizes().data(), tensor.dim(), tensor.data_ptr())) {
        TORCH_CHECK(handle != nullptr, "aclCreateTensor failed for sizes ", tensor.sizes());
    }
    Described(const Described&) = delete;
    ~Described() { aclDestroyTensor(handle); }
    aclTensor* get() const { return handle; }

private:
    aclTensor* handle;
};

void check(aclnnStatus status, const char* step) {
    TORCH_CHECK(status == 0, step, " failed with status ", status, ": ", aclGetRecentErrMsg());
}

// The second step; the workspace is torch's memory, which its allocator keeps for this stream.
template <typename Launch>
void launch(Launch run, uint64_t workspace, aclOpExecutor* executor, const Tensor& like, const char* step) {
    const Tensor bytes = at::empty({static_cast<int64_t>(workspace)}, like.options().dtype(at::kByte));
    void* address = workspace == 0 ? nullptr : bytes.data_ptr();
    check(run(address, workspace, executor, c10_npu::getCurrentNPUStream().stream()), step);
}

std::vector<int64_t> sizes_of_indices(const Tensor& query_codes, const Tensor& key_codes, const Tensor& length,
                                      int64_t blocks, int64_t sink_blocks, int64_t recent_blocks) {
    TORCH_CHECK(query_codes.dim() == 4 && key_codes.dim() == 4 && length.dim() == 1 && query_codes.size(2) == 1,
                "got query_codes ", query_codes.sizes(), ", key_codes ", key_codes.sizes(), ", length ", length.sizes(),
                ", expected [B, Hq, 1, w], [B, Hkv, C, w], [B]");
    TORCH_CHECK(query_codes.size(0) == key_codes.size(0) && length.size(0) == key_codes.size(0) &&
                    query_codes.size(3) == key_codes.size(3),
                "query_codes ", query_codes.sizes(), ", key_codes ", key_codes.sizes(), " and length ", length.sizes(),
                " differ in B or w");
    TORCH_CHECK(query_codes.scalar_type() == at::kInt && key_codes.scalar_type() == at::kInt &&
                    length.scalar_type() == at::kInt,
                "codes and length must be int32");
    TORCH_CHECK(blocks >= 1 && sink_blocks >= 0 && recent_blocks >= 0 && blocks >= sink_blocks + recent_blocks, "got ",
                blocks, " blocks for ", sink_blocks, " sink and ", recent_blocks, " recent ones, expected at least both");
    return {key_codes.size(0), key_codes.size(1), blocks};
}

Tensor hamming_blocks_meta(const Tensor& query_codes, const Tensor& key_codes, const Tensor& length, int64_t blocks,
                           int64_t sink_blocks, int64_t recent_blocks) {
    const auto sizes = sizes_of_indices(query_codes, key_codes, length, blocks, sink_blocks, recent_blocks);
    return at::empty(sizes, key_codes.options());
}

Tensor hamming_blocks(const Tensor& query_codes, const Tensor& key_codes, const Tensor& length, int64_t blocks,
                      int64_t sink_blocks, int64_t recent_blocks) {
    const auto sizes = sizes_of_indices(query_codes, key_codes, length, blocks, sink_blocks, recent_blocks);
    const Tensor query = query_codes.contiguous(), keys = key_codes.contiguous(), held = length.contiguous();
    Tensor indices = at::empty(sizes, keys.options());
    const Described a(query), b(keys), c(held), out(indices);
    uint64_t workspace = 0;
    aclOpExecutor* executor = nullptr;
    check(aclnnHammingBlocksGetWorkspaceSize(a.get(), b.get(), c.get(), blocks, sink_blocks, recent_blocks, out.get(),
                                             &workspace, &executor),
          "aclnnHammingBlocksGetWorkspaceSize");
    launch(aclnnHammingBlocks, workspace, executor, keys, "aclnnHammingBlocks");
    return indices;
}

using Merged = std::tuple<Tensor, Tensor, Tensor>;

Merged merged_like(const Tensor& keys, const Tensor& values, const Tensor& degrees, const Tensor& places,
                   int64_t chunks, int64_t chunk, int64_t merges) {
    TORCH_CHECK(keys.dim() == 4 && keys.sizes() == values.sizes() && keys.scalar_type() == values.scalar_type(),
                "got keys ", keys.sizes(), " and values ", values.sizes(), ", expected [B, H, L, D] of one type");
    TORCH_CHECK(degrees.sizes() == keys.sizes().slice(0, 3) && degrees.scalar_type() == at::kFloat, "got degrees ",
                degrees.sizes(), ", expected float32 [B, H, L]");
    TORCH_CHECK(places.sizes() == degrees.sizes() && places.scalar_type() == at::kInt, "got places ", places.sizes(),
                ", expected int32 [B, H, L]");
    TORCH_CHECK(chunks >= 1 && chunk >= 2 && chunks * chunk <= keys.size(2) && merges >= 0 &&
                    merges <= chunks * chunk / 2,
                "got ", merges, " merges in ", chunks, " chunks of ", chunk, " of ", keys.size(2),
                " tokens, expected at most half of the chunks' tokens");
    const std::vector<int64_t> sizes = {keys.size(0), keys.size(1), keys.size(2) - merges, keys.size(3)};
    return {at::empty(sizes, keys.options()), at::empty(sizes, values.options()),
            at::empty({sizes[0], sizes[1], sizes[2]}, degrees.options())};
}

Merged centroid_merge(const Tensor& keys, const Tensor& values, const Tensor& degrees, const Tensor& places,
                      int64_t chunks, int64_t chunk, int64_t merges) {
    Merged merged = merged_like(keys, values, degrees, places, chunks, chunk, merges);
    const Tensor k = keys.contiguous(), v = values.contiguous(), n = degrees.contiguous(), p = places.contiguous();
    const Described a(k), b(v), c(n), d(p);
    const Described x(std::get<0>(merged)), y(std::get<1>(merged)), z(std::get<2>(merged));
    uint64_t workspace = 0;
    aclOpExecutor* executor = nullptr;
    check(aclnnCentroidMergeGetWorkspaceSize(a.get(), b.get(), c.get(), d.get(), chunks, chunk, merges, x.get(),
                                             y.get(), z.get(), &workspace, &executor),
          "aclnnCentroidMergeGetWorkspaceSize");
    launch(aclnnCentroidMerge, workspace, executor, k, "aclnnCentroidMerge");
    return merged;
}

}  // namespace

TORCH_LIBRARY(npukv_ascendc, m) {
    m.def("hamming_blocks(Tensor query_codes, Tensor key_codes, Tensor length, int blocks, int sink_blocks, "
          "int recent_blocks) -> Tensor");
    m.def("centroid_merge(Tensor keys, Tensor values, Tensor degrees, Tensor places, int chunks, int chunk, "
          "int merges) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(npukv_ascendc, PrivateUse1, m) {
    m.impl("hamming_blocks", &hamming_blocks);
    m.impl("centroid_merge", &centroid_merge);
}

TORCH_LIBRARY_IMPL(npukv_ascendc, Meta, m) {
    m.impl("hamming_blocks", &hamming_blocks_meta);
    m.impl("centroid_merge", &merged_like);
}
