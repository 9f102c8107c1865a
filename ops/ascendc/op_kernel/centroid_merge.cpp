// CentroidMerge on the vector cores: every core takes whole chunks. Means are computed in float; a token that neither
// merges nor is merged into leaves as it came, to the bit.
#include "kernel_operator.h"

using namespace AscendC;

namespace {

constexpr uint32_t LONGEST = 64;  // tokens of a chunk

__aicore__ inline void Settle() { PipeBarrier<PIPE_V>(); }

template <HardEvent event>
__aicore__ inline void Order() {
    const event_t id = static_cast<event_t>(GetTPipePtr()->FetchEventID(event));
    SetFlag<event>(id);
    WaitFlag<event>(id);
}

template <typename T>
class CentroidMergeKernel {
public:
    template <typename Tiling>
    __aicore__ inline CentroidMergeKernel(GM_ADDR keys, GM_ADDR values, GM_ADDR degrees, GM_ADDR source,
                                          GM_ADDR target, GM_ADDR mergedKeys, GM_ADDR mergedValues,
                                          GM_ADDR mergedDegrees, const Tiling& tiling)
        : chunks(tiling.chunks), chunk(tiling.chunk), merges(tiling.merges), width(tiling.width),
          columns(tiling.columns), left(tiling.chunk - tiling.merges) {
        const uint64_t before = static_cast<uint64_t>(chunks) * chunk, after = static_cast<uint64_t>(chunks) * left;
        keysGm.SetGlobalBuffer((__gm__ T*)keys, before * width);
        valuesGm.SetGlobalBuffer((__gm__ T*)values, before * width);
        degreesGm.SetGlobalBuffer((__gm__ float*)degrees, before);
        sourceGm.SetGlobalBuffer((__gm__ int32_t*)source, static_cast<uint64_t>(chunks) * merges);
        targetGm.SetGlobalBuffer((__gm__ int32_t*)target, static_cast<uint64_t>(chunks) * merges);
        mergedKeysGm.SetGlobalBuffer((__gm__ T*)mergedKeys, after * width);
        mergedValuesGm.SetGlobalBuffer((__gm__ T*)mergedValues, after * width);
        mergedDegreesGm.SetGlobalBuffer((__gm__ float*)mergedDegrees, after);
    }

    __aicore__ inline void Run(TPipe& pipe) {
        pipe.InitBuffer(loaded, 2, chunk * columns * sizeof(T));
        pipe.InitBuffer(stored, 2, chunk * columns * sizeof(T));
        pipe.InitBuffer(wide, chunk * columns * sizeof(float));
        pipe.InitBuffer(degreesQueue, 1, chunk * sizeof(float));
        pipe.InitBuffer(pairsQueue, 2, (merges + 7) / 8 * 32);
        pipe.InitBuffer(sums, (left + 7) / 8 * 32);
        const uint32_t share = (chunks + GetBlockNum() - 1) / GetBlockNum();
        for (uint32_t i = GetBlockIdx() * share; i < (GetBlockIdx() + 1) * share && i < chunks; ++i) {
            Match(i);
            for (uint32_t column = 0; column < width; column += columns) {
                const uint32_t part = width - column < columns ? width - column : columns;
                Merge(keysGm, mergedKeysGm, i, column, part);
                Merge(valuesGm, mergedValuesGm, i, column, part);
            }
        }
    }

private:
    // Who merges into whom, with which weight; writes the new degrees.
    __aicore__ inline void Match(uint32_t i) {
        LocalTensor<float> degrees = degreesQueue.AllocTensor<float>();
        DataCopy(degrees, degreesGm[static_cast<uint64_t>(i) * chunk], chunk);
        degreesQueue.EnQue(degrees);
        const DataCopyExtParams shape = {1, static_cast<uint32_t>(merges * sizeof(int32_t)), 0, 0, 0};
        LocalTensor<int32_t> source = pairsQueue.AllocTensor<int32_t>(), target = pairsQueue.AllocTensor<int32_t>();
        DataCopyPad(source, sourceGm[static_cast<uint64_t>(i) * merges], shape, {false, 0, 0, 0});
        pairsQueue.EnQue(source);
        DataCopyPad(target, targetGm[static_cast<uint64_t>(i) * merges], shape, {false, 0, 0, 0});
        pairsQueue.EnQue(target);
        degrees = degreesQueue.DeQue<float>();
        source = pairsQueue.DeQue<int32_t>();
        target = pairsQueue.DeQue<int32_t>();
        Order<HardEvent::MTE2_S>();

        alive = chunk < 64 ? (1ull << chunk) - 1 : ~0ull;
        float total[LONGEST];
        for (uint32_t token = 0; token < chunk; ++token) total[token] = degrees.GetValue(token);
        for (uint32_t p = 0; p < merges; ++p) {
            from[p] = static_cast<uint32_t>(source.GetValue(p));
            into[p] = static_cast<uint32_t>(target.GetValue(p));
            alive &= ~(1ull << from[p]);
            total[into[p]] += degrees.GetValue(from[p]);
        }
        for (uint32_t p = 0; p < merges; ++p) {
            moved[p] = degrees.GetValue(from[p]) / total[into[p]];
            stays[p] = degrees.GetValue(into[p]) / total[into[p]];
        }
        LocalTensor<float> merged = sums.Get<float>();
        Order<HardEvent::MTE3_S>();  // those of the chunk before are on their way out
        uint32_t place = 0;
        for (uint32_t token = 0; token < chunk; ++token) {
            if (alive >> token & 1) merged.SetValue(place++, total[token]);
        }
        Order<HardEvent::S_MTE3>();
        const DataCopyExtParams out = {1, static_cast<uint32_t>(left * sizeof(float)), 0, 0, 0};
        DataCopyPad(mergedDegreesGm[static_cast<uint64_t>(i) * left], merged, out);
        Order<HardEvent::S_MTE2>();  // the pairs are read: the next ones may come
        degreesQueue.FreeTensor(degrees);
        pairsQueue.FreeTensor(source);
        pairsQueue.FreeTensor(target);
    }

    // Some columns of a chunk's keys, or of its values.
    __aicore__ inline void Merge(const GlobalTensor<T>& in, const GlobalTensor<T>& out, uint32_t i, uint32_t column,
                                 uint32_t part) {
        const uint32_t bytes = part * sizeof(T), rest = (width - part) * sizeof(T);
        LocalTensor<T> rows = loaded.template AllocTensor<T>();
        const uint64_t first = static_cast<uint64_t>(i) * chunk * width + column;
        DataCopyPad(rows, in[first], DataCopyExtParams{static_cast<uint16_t>(chunk), bytes, rest, 0, 0},
                    DataCopyPadExtParams<T>{false, 0, 0, static_cast<T>(0)});
        loaded.EnQue(rows);
        rows = loaded.template DeQue<T>();
        LocalTensor<float> mean = wide.Get<float>();
        Widen(mean, rows, chunk * part);
        Settle();
        loaded.FreeTensor(rows);

        uint64_t scaled = 0;
        for (uint32_t p = 0; p < merges; ++p) {
            if (scaled >> into[p] & 1) continue;
            scaled |= 1ull << into[p];
            Muls(mean[into[p] * part], mean[into[p] * part], stays[p], part);
        }
        Settle();
        uint64_t touched = 0;  // since the last barrier
        for (uint32_t p = 0; p < merges; ++p) {
            if (touched >> into[p] & 1) {
                Settle();
                touched = 0;
            }
            touched |= 1ull << into[p];
            Axpy(mean[into[p] * part], mean[from[p] * part], moved[p], part);
        }
        Settle();
        LocalTensor<T> narrow = stored.template AllocTensor<T>();
        uint32_t place = 0;
        for (uint32_t token = 0; token < chunk; ++token) {
            if (alive >> token & 1) Narrow(narrow[place++ * part], mean[token * part], part);
        }
        stored.EnQue(narrow);
        narrow = stored.template DeQue<T>();
        Settle();  // the means are read: the next ones may come
        const uint64_t place0 = static_cast<uint64_t>(i) * left * width + column;
        DataCopyPad(out[place0], narrow, DataCopyExtParams{static_cast<uint16_t>(left), bytes, 0, rest, 0});
        stored.FreeTensor(narrow);
    }

    __aicore__ inline void Widen(const LocalTensor<float>& dst, const LocalTensor<T>& src, uint32_t count) {
        if constexpr (sizeof(T) == sizeof(float)) {
            Muls(dst, src, 1.0f, count);
        } else {
            Cast(dst, src, RoundMode::CAST_NONE, count);
        }
    }

    __aicore__ inline void Narrow(const LocalTensor<T>& dst, const LocalTensor<float>& src, uint32_t count) {
        if constexpr (sizeof(T) == sizeof(float)) {
            Muls(dst, src, 1.0f, count);
        } else {
            Cast(dst, src, RoundMode::CAST_RINT, count);
        }
    }

    const uint32_t chunks, chunk, merges, width, columns;
    const uint32_t left;  // tokens of a chunk afterwards
    uint64_t alive = 0;   // a bit for each token of the chunk that stays
    uint32_t from[LONGEST / 2], into[LONGEST / 2];
    float moved[LONGEST / 2], stays[LONGEST / 2];  // weights of a pair's source and target in the mean
    GlobalTensor<T> keysGm, valuesGm, mergedKeysGm, mergedValuesGm;
    GlobalTensor<float> degreesGm, mergedDegreesGm;
    GlobalTensor<int32_t> sourceGm, targetGm;
    TQue<TPosition::VECIN, 2> loaded, pairsQueue;
    TQue<TPosition::VECIN, 1> degreesQueue;
    TQue<TPosition::VECOUT, 2> stored;
    TBuf<TPosition::VECCALC> wide;
    TBuf<TPosition::VECOUT> sums;
};

}  // namespace

extern "C" __global__ __aicore__ void centroid_merge(GM_ADDR keys, GM_ADDR values, GM_ADDR degrees, GM_ADDR source,
                                                     GM_ADDR target, GM_ADDR merged_keys, GM_ADDR merged_values,
                                                     GM_ADDR merged_degrees, GM_ADDR workspace, GM_ADDR tiling) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    GET_TILING_DATA(data, tiling);
    TPipe pipe;
    if (TILING_KEY_IS(0)) {
        CentroidMergeKernel<half>(keys, values, degrees, source, target, merged_keys, merged_values, merged_degrees,
                                  data).Run(pipe);
    } else if (TILING_KEY_IS(1)) {
        CentroidMergeKernel<bfloat16_t>(keys, values, degrees, source, target, merged_keys, merged_values,
                                        merged_degrees, data).Run(pipe);
    } else if (TILING_KEY_IS(2)) {
        CentroidMergeKernel<float>(keys, values, degrees, source, target, merged_keys, merged_values, merged_degrees,
                                   data).Run(pipe);
    }
}
