// As the build generates it from operators.json: inputs, attributes, outputs, workspace, executor.
#include "acl/acl.h"
aclnnStatus aclnnCentroidMergeGetWorkspaceSize(const aclTensor* keys, const aclTensor* values, const aclTensor* degrees,
                                               const aclTensor* places, int64_t chunks, int64_t chunk, int64_t merges,
                                               const aclTensor* mergedKeys, const aclTensor* mergedValues,
                                               const aclTensor* mergedDegrees, uint64_t* workspaceSize,
                                               aclOpExecutor** executor);
aclnnStatus aclnnCentroidMerge(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream);
