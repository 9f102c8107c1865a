// Stands in for CANN's headers that the binding includes: the functions' names and arguments, nothing behind them but a
// record of the calls.
#ifndef SHIM_ACL_H
#define SHIM_ACL_H

#include <cstdint>
#include <string>
#include <vector>

enum aclDataType { ACL_FLOAT = 0, ACL_FLOAT16 = 1, ACL_INT32 = 3, ACL_BF16 = 27 };
enum aclFormat { ACL_FORMAT_ND = 2 };
using aclrtStream = void*;
inline const char* aclGetRecentErrMsg() { return "told by the stand-in"; }

struct aclTensor {
    std::vector<int64_t> sizes, strides;
    aclDataType type;
    void* data;
};
struct aclOpExecutor {
    std::string call;
};
using aclnnStatus = int32_t;

inline int& alive() {
    static int tensors = 0;
    return tensors;
}
inline aclTensor* aclCreateTensor(const int64_t* sizes, uint64_t dims, aclDataType type, const int64_t* strides,
                                  int64_t, aclFormat, const int64_t*, uint64_t, void* data) {
    ++alive();
    return new aclTensor{{sizes, sizes + dims}, {strides, strides + dims}, type, data};
}
inline aclnnStatus aclDestroyTensor(const aclTensor* tensor) {
    --alive();
    delete tensor;
    return 0;
}

#endif
