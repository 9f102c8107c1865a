// Stands in for CANN's header of this name: the part of the Ascend C API that our kernels use, on one CPU thread per
// core, written from the public API reference. It computes, and it refuses what a card would not do or would do wrong:
// addresses and lengths that are not aligned, more unified buffer than there is, accesses outside of a tensor, missing
// waits between pipes, queues whose discipline is broken, types that an instruction does not take.
#ifndef SHIM_KERNEL_OPERATOR_H
#define SHIM_KERNEL_OPERATOR_H

#include <cmath>
#include <limits>
#include <type_traits>

#include "core.h"

#define __aicore__
#define __global__
#define __gm__
#define GM_ADDR uint8_t*
#define KERNEL_TASK_TYPE_DEFAULT(type)
#define TILING_KEY_IS(key) (AscendC::machine()->tiling_key == (key))
#define GET_TILING_DATA(name, address) \
    KernelTiling name;                 \
    std::memcpy(static_cast<void*>(&name), address, sizeof(name))

using half = _Float16;

struct bfloat16_t {
    uint16_t bits;
    bfloat16_t() = default;
    explicit bfloat16_t(float value) {  // to nearest, ties to even
        uint32_t word;
        std::memcpy(&word, &value, 4);
        bits = value != value ? 0x7FC0 : static_cast<uint16_t>((word + 0x7FFF + (word >> 16 & 1)) >> 16);
    }
    explicit operator float() const {
        const uint32_t word = static_cast<uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &word, 4);
        return value;
    }
};

using event_t = int32_t;

namespace AscendC {

enum class TPosition { GM, VECIN, VECOUT, VECCALC };
enum class RoundMode { CAST_NONE, CAST_RINT };
enum class ReduceOrder { ORDER_VALUE_INDEX, ORDER_ONLY_VALUE };
enum class CMPMODE { LT, GT, EQ, LE, GE, NE };
enum class HardEvent { V_S, S_V, MTE2_S, S_MTE2, MTE3_S, S_MTE3, MTE2_V, V_MTE2, V_MTE3, MTE3_V };

struct BinaryRepeatParams {
    uint8_t dstBlkStride, src0BlkStride, src1BlkStride, dstRepStride, src0RepStride, src1RepStride;
};
struct GatherMaskParams {
    uint8_t src0BlockStride;
    uint16_t repeatTimes, src0RepeatStride;
    uint8_t src1RepeatStride;
};
struct DataCopyExtParams {
    uint16_t blockCount;
    uint32_t blockLen, srcStride, dstStride, rsv;
};
template <typename T>
struct DataCopyPadExtParams {
    bool isPad;
    uint8_t leftPadding, rightPadding;
    T paddingValue;
};

inline uint32_t GetBlockIdx() { return core()->id; }
inline uint32_t GetBlockNum() { return core()->cores; }
inline uint8_t* GetUserWorkspace(uint8_t* workspace) { return workspace; }

template <typename T>
class LocalTensor {
public:
    LocalTensor() = default;
    LocalTensor(TPosition place, uint64_t from, uint64_t to, int slot) : place(place), from(from), to(to), slot(slot) {}

    LocalTensor operator[](uint64_t elements) const {
        require(from + elements * sizeof(T) <= to, "a part of a tensor starts after its end");
        return LocalTensor(place, from + elements * sizeof(T), to, slot);
    }

    template <typename U>
    LocalTensor<U> ReinterpretCast() const {
        return LocalTensor<U>(place, from, to, slot);
    }

    T* at(Instruction& instruction, uint64_t elements, bool write, uint32_t align = DATA_BLOCK) const {
        require(to > from, "a tensor that was never allocated");
        require(from % align == 0, "a local address is not aligned to " + std::to_string(align) + " bytes");
        require(from + elements * sizeof(T) <= to, "an access past the end of a local tensor");
        instruction.access(from, elements * sizeof(T), write);
        return reinterpret_cast<T*>(core()->buffer + from);
    }

    T GetValue(uint32_t index) const {
        Instruction scalar(PIPE_S, "GetValue");
        return *(*this)[index].at(scalar, 1, false, sizeof(T));
    }

    void SetValue(uint32_t index, T value) const {
        Instruction scalar(PIPE_S, "SetValue");
        *(*this)[index].at(scalar, 1, true, sizeof(T)) = value;
    }

    TPosition place = TPosition::GM;
    uint64_t from = 0, to = 0;
    int slot = -1;
};

template <typename T>
class GlobalTensor {
public:
    void SetGlobalBuffer(T* start, uint64_t elements) {
        data = start;
        size = elements;
    }

    GlobalTensor operator[](uint64_t elements) const {
        require(elements <= size, "a part of a global tensor starts after its end");
        GlobalTensor part;
        part.SetGlobalBuffer(data + elements, size - elements);
        return part;
    }

    T* at(uint64_t elements) const {
        require(elements <= size, "an access past the end of a global tensor");
        check_global(data, elements * sizeof(T), "an access");
        return data;
    }

    T GetValue(uint64_t index) const { return *(*this)[index].at(1); }

private:
    T* data = nullptr;
    uint64_t size = 0;
};

template <TPosition position, int32_t depth>
class TQue;
template <TPosition position>
class TBuf;

class TPipe {
public:
    TPipe() { current() = this; }
    static TPipe*& current() {
        static thread_local TPipe* pipe = nullptr;
        return pipe;
    }

    template <TPosition position, int32_t depth>
    void InitBuffer(TQue<position, depth>& queue, uint8_t number, uint32_t bytes) {
        queue.slots.clear();
        for (int slot = 0; slot < number; ++slot) {
            const uint64_t from = take(bytes);
            queue.slots.push_back({from, core()->used, false, core()->known[queue.producer]});
        }
    }

    template <TPosition position>
    void InitBuffer(TBuf<position>& buffer, uint32_t bytes) {
        buffer.from = take(bytes);
        buffer.to = core()->used;
    }

    void Reset() {
        require(core()->held.empty(), "Reset: FreeTensor is missing");
        core()->used = 0;
    }

    int32_t FetchEventID(HardEvent) { return 0; }

private:
    uint64_t take(uint64_t bytes) {
        Core& c = *core();
        require(bytes > 0, "InitBuffer: no bytes");
        const uint64_t from = c.used;
        c.used += (bytes + DATA_BLOCK - 1) / DATA_BLOCK * DATA_BLOCK;
        c.most = std::max(c.most, c.used);
        require(c.used <= c.bytes, "InitBuffer: the unified buffer is full (" + std::to_string(c.used) + " bytes)");
        return from;
    }
};

inline TPipe* GetTPipePtr() { return TPipe::current(); }

template <TPosition position, int32_t depth>
class TQue {
    static_assert(position == TPosition::VECIN || position == TPosition::VECOUT, "queues of vector cores");

public:
    static constexpr int producer = position == TPosition::VECIN ? PIPE_MTE2 : PIPE_V;
    static constexpr int consumer = position == TPosition::VECIN ? PIPE_V : PIPE_MTE3;
    struct Slot {
        uint64_t from, to;
        bool taken;
        Known freed;  // what the consumer had finished when it gave the buffer back
    };

    template <typename T>
    LocalTensor<T> AllocTensor() {
        for (size_t i = 0; i < slots.size(); ++i) {
            if (slots[i].taken) continue;
            slots[i].taken = true;
            core()->learn(producer, slots[i].freed);
            core()->held.push_back("a buffer of a queue");
            return LocalTensor<T>(position, slots[i].from, slots[i].to, static_cast<int>(i));
        }
        throw Violation("AllocTensor: no buffer is free (FreeTensor is missing)");
    }

    template <typename T>
    void EnQue(const LocalTensor<T>& tensor) {
        check(tensor, "EnQue");
        require(queued.size() < static_cast<size_t>(depth), "EnQue: the queue is full");
        for (auto& entry : queued) require(entry.first != tensor.slot, "EnQue: the tensor is queued already");
        queued.emplace_back(tensor.slot, core()->snapshot(producer));
    }

    template <typename T>
    LocalTensor<T> DeQue() {
        require(!queued.empty(), "DeQue: the queue is empty (EnQue is missing)");
        const auto entry = queued.front();
        queued.erase(queued.begin());
        core()->learn(consumer, entry.second);
        const Slot& slot = slots[entry.first];
        return LocalTensor<T>(position, slot.from, slot.to, entry.first);
    }

    template <typename T>
    void FreeTensor(const LocalTensor<T>& tensor) {
        check(tensor, "FreeTensor");
        slots[tensor.slot].taken = false;
        slots[tensor.slot].freed = core()->snapshot(consumer);
        core()->held.pop_back();
    }

private:
    friend class TPipe;
    template <typename T>
    void check(const LocalTensor<T>& tensor, const char* what) {
        const bool mine = tensor.slot >= 0 && tensor.slot < static_cast<int>(slots.size()) &&
                          slots[tensor.slot].from == tensor.from && slots[tensor.slot].taken;
        require(mine, std::string(what) + ": the tensor is not one of the queue's, or is free already");
    }
    std::vector<Slot> slots;
    std::vector<std::pair<int, Known>> queued;
};

template <TPosition position>
class TBuf {
public:
    template <typename T>
    LocalTensor<T> Get() const {
        return LocalTensor<T>(position, from, to, -1);
    }
    uint64_t from = 0, to = 0;
};

template <pipe_t pipe>
void PipeBarrier() {
    Core& c = *core();
    for (int p = 0; p < PIPES; ++p) {
        if (pipe == PIPE_ALL) c.known[p].fill(c.now);
        if (pipe == p) c.known[p][p] = c.now;
    }
}

constexpr std::pair<int, int> ends(HardEvent event) {
    switch (event) {
        case HardEvent::V_S: return {PIPE_V, PIPE_S};
        case HardEvent::S_V: return {PIPE_S, PIPE_V};
        case HardEvent::MTE2_S: return {PIPE_MTE2, PIPE_S};
        case HardEvent::S_MTE2: return {PIPE_S, PIPE_MTE2};
        case HardEvent::MTE3_S: return {PIPE_MTE3, PIPE_S};
        case HardEvent::S_MTE3: return {PIPE_S, PIPE_MTE3};
        case HardEvent::MTE2_V: return {PIPE_MTE2, PIPE_V};
        case HardEvent::V_MTE2: return {PIPE_V, PIPE_MTE2};
        case HardEvent::V_MTE3: return {PIPE_V, PIPE_MTE3};
        default: return {PIPE_MTE3, PIPE_V};
    }
}

template <HardEvent event>
void SetFlag(event_t number) {
    core()->flags[{static_cast<int>(event), number}].push_back(core()->snapshot(ends(event).first));
}

template <HardEvent event>
void WaitFlag(event_t number) {
    auto& set = core()->flags[{static_cast<int>(event), number}];
    require(!set.empty(), "WaitFlag: the flag is never set");
    core()->learn(ends(event).second, set.front());
    set.erase(set.begin());
}

inline void SyncAll() {
    meet();
}

}  // namespace AscendC

#include "vector.h"

#endif
