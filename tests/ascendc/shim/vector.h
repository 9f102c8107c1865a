// Copies and vector instructions of the stand-in for Ascend C.
#ifndef SHIM_VECTOR_H
#define SHIM_VECTOR_H

namespace AscendC {

template <typename T, typename... Of>
constexpr bool is_one_of = (std::is_same_v<T, Of> || ...);

template <typename T>
constexpr bool calculates = is_one_of<T, half, float, int16_t, int32_t>;

inline void check_moves(TPosition place) {
    require(place == TPosition::VECIN || place == TPosition::VECOUT, "only VECIN and VECOUT exchange with global memory");
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count) {
    require(count * sizeof(T) % DATA_BLOCK == 0, "DataCopy: the length is not a multiple of 32 bytes");
    check_moves(dst.place);
    Instruction copy(PIPE_MTE2, "DataCopy");
    std::memcpy(dst.at(copy, count, true), src.at(count), count * sizeof(T));
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count) {
    require(count * sizeof(T) % DATA_BLOCK == 0, "DataCopy: the length is not a multiple of 32 bytes");
    check_moves(src.place);
    Instruction copy(PIPE_MTE3, "DataCopy");
    std::memcpy(dst.at(count), src.at(copy, count, false), count * sizeof(T));
}

inline uint64_t padded_block(const DataCopyExtParams& shape, uint32_t stride) {
    return (shape.blockLen + DATA_BLOCK - 1) / DATA_BLOCK * DATA_BLOCK + static_cast<uint64_t>(stride) * DATA_BLOCK;
}

inline void check_shape(const DataCopyExtParams& shape, size_t element) {
    require(shape.blockCount >= 1 && shape.blockCount <= 4095, "DataCopyPad: 1 to 4095 blocks");
    require(shape.blockLen >= 1 && shape.blockLen <= 2097151, "DataCopyPad: 1 to 2097151 bytes of a block");
    require(shape.blockLen % element == 0, "DataCopyPad: a block is no whole number of elements");
}

// Strides: in global memory bytes, in the unified buffer blocks of 32 bytes, both between a block's end and the next.
template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& shape,
                 const DataCopyPadExtParams<T>&) {
    check_shape(shape, sizeof(T));
    check_moves(dst.place);
    Instruction copy(PIPE_MTE2, "DataCopyPad");
    const uint64_t step = padded_block(shape, shape.dstStride), out = shape.blockLen + uint64_t{shape.srcStride};
    const uint64_t whole = (shape.blockCount - 1) * step + padded_block(shape, 0);
    auto* to = reinterpret_cast<uint8_t*>(dst.at(copy, whole / sizeof(T), true));
    const auto* from = reinterpret_cast<const uint8_t*>(src.at(((shape.blockCount - 1) * out + shape.blockLen) / sizeof(T)));
    std::memset(to, 0x5A, whole);  // what fills a block up is anything
    for (uint32_t i = 0; i < shape.blockCount; ++i) std::memcpy(to + i * step, from + i * out, shape.blockLen);
}

template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& shape) {
    check_shape(shape, sizeof(T));
    check_moves(src.place);
    Instruction copy(PIPE_MTE3, "DataCopyPad");
    const uint64_t step = padded_block(shape, shape.srcStride), out = shape.blockLen + uint64_t{shape.dstStride};
    const uint64_t whole = (shape.blockCount - 1) * step + padded_block(shape, 0);
    const auto* from = reinterpret_cast<const uint8_t*>(src.at(copy, whole / sizeof(T), false));
    auto* to = reinterpret_cast<uint8_t*>(dst.at(((shape.blockCount - 1) * out + shape.blockLen) / sizeof(T)));
    for (uint32_t i = 0; i < shape.blockCount; ++i) std::memcpy(to + i * out, from + i * step, shape.blockLen);
}

// Whether 16-bit additions saturate or wrap is not said for every chip: a kernel must not need to know.
template <typename T>
T exact(int64_t value) {
    require(value >= std::numeric_limits<T>::min() && value <= std::numeric_limits<T>::max(), "an integer overflows");
    return static_cast<T>(value);
}

template <typename T, typename Compute>
void unary(const char* name, const LocalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count, Compute compute) {
    Instruction vector(PIPE_V, name);
    const T* from = src.at(vector, count, false);
    T* to = dst.at(vector, count, true);
    for (uint32_t i = 0; i < count; ++i) to[i] = compute(from[i]);
}

template <typename T, typename Compute>
void binary(const char* name, const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b,
            uint32_t count, Compute compute) {
    Instruction vector(PIPE_V, name);
    const T *first = a.at(vector, count, false), *second = b.at(vector, count, false);
    T* to = dst.at(vector, count, true);
    for (uint32_t i = 0; i < count; ++i) to[i] = compute(first[i], second[i]);
}

// The form with repeats: 8 blocks of 32 bytes each, with strides between blocks and between repeats.
template <typename T, typename Compute>
void repeated(const char* name, const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b,
              uint64_t mask, uint32_t repeats, const BinaryRepeatParams& stride, Compute compute) {
    constexpr uint32_t lanes = 256 / sizeof(T), per_block = DATA_BLOCK / sizeof(T);
    require(mask == lanes, std::string(name) + ": only full repeats are supported");
    require(repeats <= 255, std::string(name) + ": more than 255 repeats");
    require(stride.dstBlkStride == 1 && stride.src0BlkStride == 1 && stride.src1BlkStride == 1,
            std::string(name) + ": only neighbouring blocks are supported");
    if (repeats == 0) return;
    Instruction vector(PIPE_V, name);
    const uint64_t last = repeats - 1;
    const T* first = a.at(vector, last * stride.src0RepStride * per_block + lanes, false);
    const T* second = b.at(vector, last * stride.src1RepStride * per_block + lanes, false);
    T* to = dst.at(vector, last * stride.dstRepStride * per_block + lanes, true);
    for (uint32_t r = 0; r < repeats; ++r)
        for (uint32_t i = 0; i < lanes; ++i)
            to[r * stride.dstRepStride * per_block + i] = compute(first[r * stride.src0RepStride * per_block + i],
                                                                  second[r * stride.src1RepStride * per_block + i]);
}

template <typename T>
T plus(T a, T b) {
    if constexpr (std::is_integral_v<T>) return exact<T>(int64_t{a} + b);
    else return static_cast<T>(a + b);
}

template <typename T>
T times(T a, T b) {
    if constexpr (std::is_integral_v<T>) return exact<T>(int64_t{a} * b);
    else return static_cast<T>(a * b);
}

template <typename T>
void And(const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b, uint64_t mask, uint32_t repeats,
         const BinaryRepeatParams& stride) {
    static_assert(is_one_of<T, int16_t, uint16_t>, "And takes 16-bit integers");
    repeated("And", dst, a, b, mask, repeats, stride, [](T x, T y) { return static_cast<T>(x & y); });
}

template <typename T>
void Min(const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b, uint64_t mask, uint32_t repeats,
         const BinaryRepeatParams& stride) {
    static_assert(calculates<T>);
    repeated("Min", dst, a, b, mask, repeats, stride, [](T x, T y) { return x < y ? x : y; });
}

template <typename T>
void Max(const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b, uint32_t count) {
    static_assert(calculates<T>);
    binary("Max", dst, a, b, count, [](T x, T y) { return x > y ? x : y; });
}

template <typename T>
void Add(const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b, uint32_t count) {
    static_assert(calculates<T>);
    binary("Add", dst, a, b, count, [](T x, T y) { return plus(x, y); });
}

template <typename T>
void Sub(const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b, uint32_t count) {
    static_assert(calculates<T>);
    binary("Sub", dst, a, b, count, [](T x, T y) { return plus(x, static_cast<T>(-y)); });
}

template <typename T>
void Mul(const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b, uint32_t count) {
    static_assert(calculates<T>);
    binary("Mul", dst, a, b, count, [](T x, T y) { return times(x, y); });
}

template <typename T>
void Adds(const LocalTensor<T>& dst, const LocalTensor<T>& src, T scalar, uint32_t count) {
    static_assert(calculates<T>);
    unary("Adds", dst, src, count, [=](T x) { return plus(x, scalar); });
}

template <typename T>
void Muls(const LocalTensor<T>& dst, const LocalTensor<T>& src, T scalar, uint32_t count) {
    static_assert(calculates<T>);
    unary("Muls", dst, src, count, [=](T x) { return times(x, scalar); });
}

template <typename T>
void Maxs(const LocalTensor<T>& dst, const LocalTensor<T>& src, T scalar, uint32_t count) {
    static_assert(calculates<T>);
    unary("Maxs", dst, src, count, [=](T x) { return x > scalar ? x : scalar; });
}

template <typename T>
void Mins(const LocalTensor<T>& dst, const LocalTensor<T>& src, T scalar, uint32_t count) {
    static_assert(calculates<T>);
    unary("Mins", dst, src, count, [=](T x) { return x < scalar ? x : scalar; });
}

template <typename T>
void ShiftRight(const LocalTensor<T>& dst, const LocalTensor<T>& src, T bits, uint32_t count) {
    static_assert(is_one_of<T, int16_t, uint16_t, int32_t, uint32_t>);
    unary("ShiftRight", dst, src, count, [=](T x) { return static_cast<T>(x >> bits); });
}

template <typename T>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<T>& src, T scalar, uint32_t count) {
    static_assert(is_one_of<T, half, float>);
    binary("Axpy", dst, src, dst, count, [=](T x, T y) { return static_cast<T>(x * scalar + y); });
}

template <typename T>
void Duplicate(const LocalTensor<T>& dst, T scalar, uint32_t count) {
    static_assert(calculates<T> || is_one_of<T, uint16_t, uint32_t, bfloat16_t>);
    Instruction vector(PIPE_V, "Duplicate");
    std::fill_n(dst.at(vector, count, true), count, scalar);
}

template <typename T>
void CreateVecIndex(const LocalTensor<T>& dst, T first, uint32_t count) {
    static_assert(calculates<T>);
    Instruction vector(PIPE_V, "CreateVecIndex");
    T* to = dst.at(vector, count, true);
    for (uint32_t i = 0; i < count; ++i) to[i] = static_cast<T>(first + static_cast<T>(i));
}

template <typename To, typename From>
void Cast(const LocalTensor<To>& dst, const LocalTensor<From>& src, RoundMode mode, uint32_t count) {
    constexpr bool widens = is_one_of<From, half, bfloat16_t, int16_t> && std::is_same_v<To, float>;
    constexpr bool narrows = std::is_same_v<From, float> && is_one_of<To, half, bfloat16_t, int32_t>;
    static_assert(widens || narrows, "Cast has no such pair of types here");
    require(mode == (widens ? RoundMode::CAST_NONE : RoundMode::CAST_RINT), "Cast: not this rounding for these types");
    Instruction vector(PIPE_V, "Cast");
    const From* from = src.at(vector, count, false);
    To* to = dst.at(vector, count, true);
    for (uint32_t i = 0; i < count; ++i) {
        if constexpr (std::is_same_v<To, int32_t>) to[i] = static_cast<int32_t>(std::nearbyint(from[i]));
        else to[i] = static_cast<To>(static_cast<float>(from[i]));
    }
}

template <typename T>
void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeats, int32_t mask, int32_t dstRep,
                   int32_t srcBlock, int32_t srcRep) {
    static_assert(is_one_of<T, half, float>);
    constexpr int32_t lanes = 256 / sizeof(T);
    require(repeats >= 0 && repeats <= 255, "PairReduceSum: more than 255 repeats");
    require(mask == lanes && dstRep == 1 && srcBlock == 1 && srcRep == 8, "PairReduceSum: only dense, full repeats");
    Instruction vector(PIPE_V, "PairReduceSum");
    const T* from = src.at(vector, repeats * lanes, false);
    T* to = dst.at(vector, repeats * lanes / 2, true);
    for (int32_t i = 0; i < repeats * lanes / 2; ++i) to[i] = static_cast<T>(from[2 * i] + from[2 * i + 1]);
}

template <typename T>
void WholeReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t mask, int32_t repeats, int32_t dstRep,
                    int32_t srcBlock, int32_t srcRep, ReduceOrder order) {
    static_assert(is_one_of<T, half, float>);
    constexpr int32_t lanes = 256 / sizeof(T);
    require(order == ReduceOrder::ORDER_ONLY_VALUE && dstRep == 1, "WholeReduceMin: only values, side by side");
    require(repeats >= 0 && repeats <= 255, "WholeReduceMin: more than 255 repeats");
    require(mask == lanes && srcBlock == 1 && srcRep == 8, "WholeReduceMin: only dense, full repeats");
    Instruction vector(PIPE_V, "WholeReduceMin");
    const T* from = src.at(vector, repeats * lanes, false);
    T* to = dst.at(vector, repeats, true, 2 * sizeof(T));
    for (int32_t r = 0; r < repeats; ++r) to[r] = *std::min_element(from + r * lanes, from + (r + 1) * lanes);
}

// `work` takes one partial sum of each repeat.
template <typename T>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work, int32_t count) {
    static_assert(is_one_of<T, half, float>);
    constexpr int32_t lanes = 256 / sizeof(T);
    Instruction vector(PIPE_V, "ReduceSum");
    const T* from = src.at(vector, count, false);
    T* parts = work.at(vector, (count + lanes - 1) / lanes, true);
    T* to = dst.at(vector, 1, true, 2 * sizeof(T));
    T sum = 0;
    for (int32_t i = 0; i < count; ++i) sum = static_cast<T>(sum + from[i]);
    parts[0] = sum;
    to[0] = sum;
}

template <typename T>
void CompareScalar(const LocalTensor<uint8_t>& dst, const LocalTensor<T>& src, T scalar, CMPMODE mode, uint32_t count) {
    static_assert(is_one_of<T, half, float>);
    require(count * sizeof(T) % 256 == 0, "CompareScalar: the length is not a multiple of 256 bytes");
    require(mode == CMPMODE::GT, "CompareScalar: only GT is supported");
    Instruction vector(PIPE_V, "CompareScalar");
    const T* from = src.at(vector, count, false);
    uint8_t* to = dst.at(vector, count / 8, true);
    for (uint32_t i = 0; i < count; ++i) {
        const uint8_t bit = static_cast<uint8_t>(1u << i % 8);
        to[i / 8] = static_cast<uint8_t>(from[i] > scalar ? to[i / 8] | bit : to[i / 8] & ~bit);
    }
}

// In counter mode (`reduce` true) one repeat takes `count` elements.
template <typename T>
void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& pattern, bool reduce,
                uint32_t count, const GatherMaskParams& shape, uint64_t& kept) {
    static_assert(sizeof(T) == 4, "a pattern of 32-bit words goes with 32-bit elements");
    require(reduce && shape.repeatTimes == 1 && shape.src0BlockStride == 1, "GatherMask: only one dense repeat");
    Instruction vector(PIPE_V, "GatherMask");
    const T* from = src.at(vector, count, false);
    const uint32_t* bits = pattern.at(vector, (count + 31) / 32, false);
    kept = 0;
    for (uint32_t i = 0; i < count; ++i) kept += bits[i / 32] >> i % 32 & 1;
    T* to = dst.at(vector, kept, true);
    for (uint32_t i = 0, place = 0; i < count; ++i)
        if (bits[i / 32] >> i % 32 & 1) to[place++] = from[i];
}

}  // namespace AscendC

#endif
