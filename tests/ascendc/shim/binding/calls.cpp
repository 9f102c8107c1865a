// The binding as it is, for tensors on the CPU instead of the card, and aclnn functions that note what they are given.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#define PrivateUse1 CPU
#include BINDING
#undef PrivateUse1

#include <sstream>

static std::string noted;

static void note(const char* name, std::initializer_list<const aclTensor*> tensors,
                 std::initializer_list<int64_t> attributes, uint64_t* workspace, aclOpExecutor** executor) {
    std::ostringstream text;
    text << name;
    for (const aclTensor* tensor : tensors) {
        text << " " << tensor->type << "[";
        int64_t dense = 1;
        for (size_t i = tensor->sizes.size(); i-- > 0; dense *= tensor->sizes[i])
            if (tensor->strides[i] != dense && tensor->sizes[i] > 1) text << "strided ";
        for (int64_t size : tensor->sizes) text << size << ",";
        text << "]";
    }
    for (int64_t attribute : attributes) text << " " << attribute;
    *workspace = 4096;
    *executor = new aclOpExecutor{text.str()};
}

static aclnnStatus ran(void* workspace, uint64_t bytes, aclOpExecutor* executor) {
    noted = executor->call + (workspace != nullptr && bytes == 4096 ? "" : " no workspace");
    delete executor;
    return noted.find(" 77 ") == std::string::npos ? 0 : 161002;  // an attribute of 77: a failure to report
}

aclnnStatus aclnnHammingBlocksGetWorkspaceSize(const aclTensor* query, const aclTensor* keys, const aclTensor* length,
                                               int64_t blocks, int64_t sink, int64_t recent, const aclTensor* out,
                                               uint64_t* workspace, aclOpExecutor** executor) {
    note("HammingBlocks", {query, keys, length, out}, {blocks, sink, recent}, workspace, executor);
    return 0;
}
aclnnStatus aclnnHammingBlocks(void* workspace, uint64_t bytes, aclOpExecutor* executor, aclrtStream) {
    return ran(workspace, bytes, executor);
}
aclnnStatus aclnnCentroidMergeGetWorkspaceSize(const aclTensor* keys, const aclTensor* values, const aclTensor* degrees,
                                               const aclTensor* places, int64_t chunks, int64_t chunk, int64_t merges,
                                               const aclTensor* a, const aclTensor* b, const aclTensor* c,
                                               uint64_t* workspace, aclOpExecutor** executor) {
    note("CentroidMerge", {keys, values, degrees, places, a, b, c}, {chunks, chunk, merges}, workspace, executor);
    return 0;
}
aclnnStatus aclnnCentroidMerge(void* workspace, uint64_t bytes, aclOpExecutor* executor, aclrtStream) {
    return ran(workspace, bytes, executor);
}

extern "C" const char* last_call() { return noted.c_str(); }
extern "C" int tensors_alive() { return alive(); }
