// As the build generates it from operators.json: inputs, attributes, outputs, workspace, executor.
#include "acl/acl.h"
aclnnStatus aclnnHammingBlocksGetWorkspaceSize(const aclTensor* queryCodes, const aclTensor* keyCodes,
                                               const aclTensor* length, int64_t blocks, int64_t sinkBlocks,
                                               int64_t recentBlocks, const aclTensor* out, uint64_t* workspaceSize,
                                               aclOpExecutor** executor);
aclnnStatus aclnnHammingBlocks(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream);
