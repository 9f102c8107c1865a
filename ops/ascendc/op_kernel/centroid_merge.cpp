// CentroidMerge on the vector cores: every core takes chunks, some columns at a time, whose means stay in the unified
// buffer while the chunk's tokens come by. Means are computed in float; a token that neither merges nor is merged into
// leaves as it came, to the bit.
#include "kernel_operator.h"

using namespace AscendC;

namespace {

__aicore__ inline void Settle() { PipeBarrier<PIPE_V>(); }

template <HardEvent event>
__aicore__ inline void Order() {
    const event_t id = static_cast<event_t>(GetTPipePtr()->FetchEventID(event));
    SetFlag<event>(id);
    WaitFlag<event>(id);
}

__aicore__ inline uint32_t Smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

template <typename T>
class CentroidMergeKernel {
public:
    template <typename Tiling>
    __aicore__ inline CentroidMergeKernel(GM_ADDR keys, GM_ADDR values, GM_ADDR degrees, GM_ADDR places,
                                          GM_ADDR mergedKeys, GM_ADDR mergedValues, GM_ADDR mergedDegrees,
                                          const Tiling& tiling)
        : rows(tiling.rows), tokens(tiling.tokens), width(tiling.width), chunks(tiling.chunks), chunk(tiling.chunk),
          merges(tiling.merges), columns(tiling.columns), tile(tiling.tile),
          parts(tiling.parts) {
        const uint64_t before = static_cast<uint64_t>(rows) * tokens, after = before - static_cast<uint64_t>(rows) * merges;
        keysGm.SetGlobalBuffer((__gm__ T*)keys, before * width);
        valuesGm.SetGlobalBuffer((__gm__ T*)values, before * width);
        degreesGm.SetGlobalBuffer((__gm__ float*)degrees, before);
        placesGm.SetGlobalBuffer((__gm__ int32_t*)places, before);
        mergedKeysGm.SetGlobalBuffer((__gm__ T*)mergedKeys, after * width);
        mergedValuesGm.SetGlobalBuffer((__gm__ T*)mergedValues, after * width);
        mergedDegreesGm.SetGlobalBuffer((__gm__ float*)mergedDegrees, after);
    }

    __aicore__ inline void Run(TPipe& pipe) {
        pipe.InitBuffer(loaded, 2, tile * columns * sizeof(T));
        pipe.InitBuffer(stored, 2, tile * columns * sizeof(T));
        pipe.InitBuffer(wide, tile * columns * sizeof(float));
        pipe.InitBuffer(means, chunk * columns * sizeof(float));
        pipe.InitBuffer(degreesQueue, 1, chunk * sizeof(float));
        pipe.InitBuffer(placesQueue, 1, chunk * sizeof(int32_t));
        pipe.InitBuffer(sums, chunk * sizeof(float));
        pipe.InitBuffer(targets, chunk * sizeof(uint32_t));
        pipe.InitBuffer(weights, chunk * sizeof(float));
        pipe.InitBuffer(touches, chunk * sizeof(uint32_t));
        target = targets.Get<uint32_t>();
        weight = weights.Get<float>();
        touched = touches.Get<uint32_t>();
        const uint32_t items = rows * parts, share = (items + GetBlockNum() - 1) / GetBlockNum();
        for (uint32_t item = GetBlockIdx() * share; item < (GetBlockIdx() + 1) * share && item < items; ++item) {
            const uint32_t row = item / parts, part = item % parts;
            // Chunk by chunk; what lies behind the chunks moves up by all that merged.
            const uint32_t start = part * chunk, end = Smaller(start + chunk, tokens);
            const uint32_t first = start - Gone(part), last = part < chunks ? end - Gone(part + 1) : end - merges;
            const uint64_t from = static_cast<uint64_t>(row) * tokens + start;
            const uint64_t into = static_cast<uint64_t>(row) * (tokens - merges) + first;
            Match(from, into, end - start, first, last - first);
            for (uint32_t column = 0; column < width; column += columns) {
                const uint32_t some = Smaller(width - column, columns);
                Merge(keysGm[from * width + column], mergedKeysGm[into * width + column], end - start, last - first, some);
                Merge(valuesGm[from * width + column], mergedValuesGm[into * width + column], end - start, last - first,
                      some);
            }
        }
    }

private:
    // Tokens that merged away in the chunks before this one.
    __aicore__ inline uint32_t Gone(uint32_t part) {
        return part < chunks ? static_cast<uint32_t>(static_cast<uint64_t>(merges) * part / chunks) : merges;
    }

    // Which of the `left` places each of `count` tokens goes to, with which weight; writes the new degrees.
    __aicore__ inline void Match(uint64_t from, uint64_t into, uint32_t count, uint32_t first, uint32_t left) {
        const DataCopyExtParams shape = {1, static_cast<uint32_t>(count * sizeof(float)), 0, 0, 0};
        LocalTensor<float> degrees = degreesQueue.AllocTensor<float>();
        DataCopyPad(degrees, degreesGm[from], shape, {false, 0, 0, 0});
        degreesQueue.EnQue(degrees);
        LocalTensor<int32_t> places = placesQueue.AllocTensor<int32_t>();
        DataCopyPad(places, placesGm[from], shape, {false, 0, 0, 0});
        placesQueue.EnQue(places);
        degrees = degreesQueue.DeQue<float>();
        places = placesQueue.DeQue<int32_t>();
        Order<HardEvent::MTE2_S>();

        LocalTensor<float> total = sums.Get<float>();
        Order<HardEvent::MTE3_S>();  // those of the chunk before are on their way out
        for (uint32_t place = 0; place < left; ++place) total.SetValue(place, 0.0f);
        for (uint32_t token = 0; token < count; ++token) {
            // A place that is none of the chunk's would be an address anywhere: it becomes the chunk's last.
            const uint32_t place = Smaller(static_cast<uint32_t>(places.GetValue(token)) - first, left - 1);
            target.SetValue(token, place);
            total.SetValue(place, total.GetValue(place) + degrees.GetValue(token));
        }
        for (uint32_t token = 0; token < count; ++token)
            weight.SetValue(token, degrees.GetValue(token) / total.GetValue(target.GetValue(token)));
        Order<HardEvent::S_MTE3>();
        const DataCopyExtParams out = {1, static_cast<uint32_t>(left * sizeof(float)), 0, 0, 0};
        DataCopyPad(mergedDegreesGm[into], total, out);
        Order<HardEvent::S_MTE2>();  // all is read: the next may come
        degreesQueue.FreeTensor(degrees);
        placesQueue.FreeTensor(places);
    }

    // Some columns of a chunk's keys, or of its values: read, averaged and written a tile of rows at a time.
    __aicore__ inline void Merge(const GlobalTensor<T>& in, const GlobalTensor<T>& out, uint32_t count, uint32_t left,
                                 uint32_t some) {
        const uint32_t bytes = some * sizeof(T), rest = (width - some) * sizeof(T);
        LocalTensor<float> row = wide.Get<float>(), mean = means.Get<float>();
        uint32_t settled = 1;  // touched: 0 = nothing there yet, else at which barrier something came
        for (uint32_t place = 0; place < left; ++place) touched.SetValue(place, 0);
        for (uint32_t start = 0; start < count; start += tile) {
            const uint32_t rows = Smaller(count - start, tile);
            LocalTensor<T> taken = loaded.template AllocTensor<T>();
            DataCopyPad(taken, in[static_cast<uint64_t>(start) * width],
                        DataCopyExtParams{static_cast<uint16_t>(rows), bytes, rest, 0, 0},
                        DataCopyPadExtParams<T>{false, 0, 0, static_cast<T>(0)});
            loaded.EnQue(taken);
            taken = loaded.template DeQue<T>();
            Widen(row, taken, rows * some);
            Settle();
            loaded.FreeTensor(taken);
            ++settled;
            for (uint32_t token = 0; token < rows; ++token) {
                const uint32_t place = target.GetValue(start + token), before = touched.GetValue(place);
                const float share = weight.GetValue(start + token);
                if (before == 0) {
                    Muls(mean[place * some], row[token * some], share, some);
                } else {
                    if (before == settled) {
                        Settle();
                        ++settled;
                    }
                    Axpy(mean[place * some], row[token * some], share, some);
                }
                touched.SetValue(place, settled);
            }
            Settle();  // the next tile is widened where this one lies; the means are read below
        }
        for (uint32_t start = 0; start < left; start += tile) {
            const uint32_t rows = Smaller(left - start, tile);
            LocalTensor<T> narrow = stored.template AllocTensor<T>();
            Narrow(narrow, mean[start * some], rows * some);
            stored.EnQue(narrow);
            narrow = stored.template DeQue<T>();
            DataCopyPad(out[static_cast<uint64_t>(start) * width], narrow,
                        DataCopyExtParams{static_cast<uint16_t>(rows), bytes, 0, rest, 0});
            stored.FreeTensor(narrow);
        }
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

    const uint32_t rows, tokens, width, chunks, chunk, merges, columns, tile, parts;
    LocalTensor<uint32_t> target, touched;  // each token's place among those left of the chunk; see Merge
    LocalTensor<float> weight;              // and its weight in the mean there
    GlobalTensor<T> keysGm, valuesGm, mergedKeysGm, mergedValuesGm;
    GlobalTensor<float> degreesGm, mergedDegreesGm;
    GlobalTensor<int32_t> placesGm;
    TQue<TPosition::VECIN, 2> loaded;
    TQue<TPosition::VECIN, 1> degreesQueue, placesQueue;
    TQue<TPosition::VECOUT, 2> stored;
    TBuf<TPosition::VECCALC> wide, means, targets, weights, touches;
    TBuf<TPosition::VECOUT> sums;
};

}  // namespace

extern "C" __global__ __aicore__ void centroid_merge(GM_ADDR keys, GM_ADDR values, GM_ADDR degrees, GM_ADDR places,
                                                     GM_ADDR merged_keys, GM_ADDR merged_values,
                                                     GM_ADDR merged_degrees, GM_ADDR workspace, GM_ADDR tiling) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    GET_TILING_DATA(data, tiling);
    TPipe pipe;
    if (TILING_KEY_IS(0)) {
        CentroidMergeKernel<half>(keys, values, degrees, places, merged_keys, merged_values, merged_degrees, data)
            .Run(pipe);
    } else if (TILING_KEY_IS(1)) {
        CentroidMergeKernel<bfloat16_t>(keys, values, degrees, places, merged_keys, merged_values, merged_degrees, data)
            .Run(pipe);
    } else if (TILING_KEY_IS(2)) {
        CentroidMergeKernel<float>(keys, values, degrees, places, merged_keys, merged_values, merged_degrees, data)
            .Run(pipe);
    }
}
