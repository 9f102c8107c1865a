// HammingBlocks on the vector cores. Scoring: every core takes tiles of codes and leaves each block's lowest score in
// the workspace; then all wait for each other; selecting: every core takes whole rows (a row: one KV head of one text).
//
// The vector unit counts no bits and combines 16-bit words only, so counts are added up in fields of 4, then 8 bits.
// Signed sums stay below 2^15 on the way: whether 16-bit additions saturate or wrap never matters.
//
// Of G query heads that share a key, let c_j be how many have bit j set. The sum of their distances to a key with bits
// k_j is sum_j c_j + sum_j k_j (G - 2 c_j). With the binary digits of c_j as bit planes P_p, the second sum is
// G count(k) - 2 sum_p 2^p count(k & P_p): log2(G) + 1 counts for a key instead of G.
#include "kernel_operator.h"

using namespace AscendC;

namespace {

constexpr uint32_t BLOCK = 128;
constexpr uint32_t FLOATS = 64;      // of one repeat
constexpr uint32_t HALFWORDS = 128;  // of one repeat
constexpr uint32_t REPEATS = 248;    // of one instruction, at most 255
constexpr uint32_t PLANES = 6;
constexpr float ABSENT = 65536.0f;   // above every score: 63 heads of 256 bits stay below 2^14

__aicore__ inline void Settle() { PipeBarrier<PIPE_V>(); }

template <HardEvent event>
__aicore__ inline void Order() {
    const event_t id = static_cast<event_t>(GetTPipePtr()->FetchEventID(event));
    SetFlag<event>(id);
    WaitFlag<event>(id);
}

__aicore__ inline uint32_t Smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

class HammingBlocksKernel {
public:
    template <typename Tiling>
    __aicore__ inline HammingBlocksKernel(GM_ADDR query, GM_ADDR keys, GM_ADDR length, GM_ADDR indices,
                                          GM_ADDR workspace, const Tiling& tiling)
        : rows(tiling.rows), kvHeads(tiling.kvHeads), group(tiling.group), words(tiling.words),
          capacity(tiling.capacity), blocks(tiling.blocks), sink(tiling.sink), recent(tiling.recent),
          tile(tiling.tile), buffers(tiling.buffers), tiles(tiling.tiles), padded(tiling.padded),
          widest(tiling.widest), planes(tiling.planes), count(tiling.tile * tiling.words * 2) {
        queryGm.SetGlobalBuffer((__gm__ uint32_t*)query, rows * group * words);
        keysGm.SetGlobalBuffer((__gm__ uint16_t*)keys, static_cast<uint64_t>(rows) * capacity * words * 2);
        lengthGm.SetGlobalBuffer((__gm__ int32_t*)length, rows / kvHeads);
        indicesGm.SetGlobalBuffer((__gm__ int32_t*)indices, rows * blocks);
        minimaGm.SetGlobalBuffer((__gm__ float*)workspace, rows * padded);
    }

    __aicore__ inline void Score(TPipe& pipe) {
        pipe.InitBuffer(codesQueue, buffers, count * sizeof(uint16_t));
        pipe.InitBuffer(minimaQueue, 2, tile / BLOCK * sizeof(float));
        pipe.InitBuffer(scratch, 3 * count * sizeof(uint16_t));
        pipe.InitBuffer(sums, count * sizeof(int16_t));
        pipe.InitBuffer(places, tile * sizeof(float));
        pipe.InitBuffer(shifted, tile * sizeof(float));
        pipe.InitBuffer(patterns, (PLANES + 3) * HALFWORDS * sizeof(uint16_t));
        LocalTensor<uint16_t> masks = patterns.Get<uint16_t>();
        Duplicate(masks, static_cast<uint16_t>(0x1111), HALFWORDS);
        Duplicate(masks[HALFWORDS], static_cast<uint16_t>(0x0F0F), HALFWORDS);
        Duplicate(masks[2 * HALFWORDS], static_cast<uint16_t>(0x00FF), HALFWORDS);
        CreateVecIndex(places.Get<float>(), 0.0f, tile);
        Settle();

        const uint32_t items = rows * tiles, cores = GetBlockNum(), core = GetBlockIdx();
        const uint32_t share = (items + cores - 1) / cores;
        const uint32_t end = Smaller((core + 1) * share, items);
        uint32_t known = rows;  // the row whose query is at hand
        for (uint32_t item = core * share; item < end; ++item) {
            const uint32_t row = item / tiles, number = item % tiles;
            const uint32_t start = number * tile, held = Held(row);
            LocalTensor<float> minima;
            if (start >= held) {
                minima = minimaQueue.AllocTensor<float>();
                Duplicate(minima, ABSENT, tile / BLOCK);
            } else {
                if (row != known) LoadQuery(row);
                known = row;
                LoadCodes(row, start, Smaller(held - start, tile));
                minima = ScoreTile(Smaller(held - start, tile));
            }
            minimaQueue.EnQue(minima);
            minima = minimaQueue.DeQue<float>();
            DataCopy(minimaGm[row * padded + number * (tile / BLOCK)], minima, tile / BLOCK);
            minimaQueue.FreeTensor(minima);
        }
    }

    __aicore__ inline void Select(TPipe& pipe) {
        const uint32_t selected = (blocks + FLOATS - 1) / FLOATS * FLOATS;
        pipe.InitBuffer(scoresQueue, 1, padded * sizeof(float));
        pipe.InitBuffer(indicesQueue, 1, selected * sizeof(int32_t));
        pipe.InitBuffer(places, widest * sizeof(float));
        pipe.InitBuffer(keys, widest * sizeof(float));
        pipe.InitBuffer(weights, padded * sizeof(float));
        pipe.InitBuffer(shifted, padded * sizeof(float));
        pipe.InitBuffer(partial, padded / 16);
        pipe.InitBuffer(total, 32);
        pipe.InitBuffer(chosen, padded / 8);
        CreateVecIndex(places.Get<float>(), 0.0f, widest);
        Settle();
        for (uint32_t row = GetBlockIdx(); row < rows; row += GetBlockNum()) SelectRow(row, selected);
    }

private:
    // Tokens held in a row; what the device holds is believed only up to the capacity.
    __aicore__ inline uint32_t Held(uint32_t row) {
        const int32_t length = lengthGm.GetValue(row / kvHeads);
        return length < 0 ? 0 : Smaller(static_cast<uint32_t>(length), capacity);
    }

    // The bit planes of the number of query heads with a bit set, each repeated over one vector instruction's repeat.
    __aicore__ inline void LoadQuery(uint32_t row) {
        LocalTensor<uint32_t> pattern = patterns.Get<uint32_t>()[3 * HALFWORDS / 2];
        Order<HardEvent::V_S>();  // the row before may still be read
        ones = 0;
        for (uint32_t word = 0; word < words; ++word) {
            uint32_t plane[PLANES] = {0, 0, 0, 0, 0, 0};
            for (uint32_t head = 0; head < group; ++head) {
                uint32_t carry = queryGm.GetValue((row * group + head) * words + word);
                for (uint32_t p = 0; p < planes; ++p) {
                    const uint32_t both = plane[p] & carry;
                    plane[p] ^= carry;
                    carry = both;
                }
            }
            for (uint32_t p = 0; p < planes; ++p) {
                for (uint32_t bits = plane[p]; bits != 0; bits &= bits - 1) ones += 1u << p;
                for (uint32_t i = word; i < HALFWORDS / 2; i += words) pattern.SetValue(p * HALFWORDS / 2 + i, plane[p]);
            }
        }
        Order<HardEvent::S_V>();
    }

    __aicore__ inline void LoadCodes(uint32_t row, uint32_t start, uint32_t tokens) {
        LocalTensor<uint16_t> codes = codesQueue.AllocTensor<uint16_t>();
        const uint64_t first = (static_cast<uint64_t>(row) * capacity + start) * words * 2;
        const DataCopyExtParams shape = {1, static_cast<uint32_t>(tokens * words * sizeof(uint32_t)), 0, 0, 0};
        DataCopyPad(codes, keysGm[first], shape, {false, 0, 0, 0});
        codesQueue.EnQue(codes);
    }

    // dst = src & a pattern of one repeat.
    __aicore__ inline void AndPattern(const LocalTensor<uint16_t>& dst, const LocalTensor<uint16_t>& src,
                                      const LocalTensor<uint16_t>& pattern) {
        for (uint32_t done = 0; done < count; done += REPEATS * HALFWORDS) {
            const uint32_t repeats = Smaller((count - done) / HALFWORDS, REPEATS);
            And(dst[done], src[done], pattern, HALFWORDS, repeats, {1, 1, 1, 8, 8, 0});
        }
        Settle();
    }

    // sums += weight * the number of bits set in each word. `x` may be the codes themselves.
    __aicore__ inline void AddCounts(const LocalTensor<uint16_t>& x, int16_t weight) {
        LocalTensor<uint16_t> part = scratch.Get<uint16_t>()[count], sum = scratch.Get<uint16_t>()[2 * count];
        LocalTensor<uint16_t> masks = patterns.Get<uint16_t>();
        LocalTensor<int16_t> signedPart = part.ReinterpretCast<int16_t>(), signedSum = sum.ReinterpretCast<int16_t>();
        AndPattern(sum, x, masks);
        for (uint16_t shift = 1; shift < 4; ++shift) {
            ShiftRight(part, x, shift, count);
            Settle();
            AndPattern(part, part, masks);
            Add(signedSum, signedSum, signedPart, count);
            Settle();
        }
        ShiftRight(part, sum, static_cast<uint16_t>(4), count);
        Settle();
        AndPattern(part, part, masks[HALFWORDS]);
        AndPattern(sum, sum, masks[HALFWORDS]);
        Add(signedSum, signedSum, signedPart, count);
        Settle();
        ShiftRight(part, sum, static_cast<uint16_t>(8), count);
        Settle();
        AndPattern(sum, sum, masks[2 * HALFWORDS]);
        Add(signedSum, signedSum, signedPart, count);
        Settle();
        Muls(signedSum, signedSum, weight, count);
        Settle();
        Add(sums.Get<int16_t>(), sums.Get<int16_t>(), signedSum, count);
        Settle();
    }

    // The lowest score of each block of the tile.
    __aicore__ inline LocalTensor<float> ScoreTile(uint32_t valid) {
        LocalTensor<uint16_t> codes = codesQueue.DeQue<uint16_t>(), masked = scratch.Get<uint16_t>();
        LocalTensor<uint16_t> pattern = patterns.Get<uint16_t>()[3 * HALFWORDS];
        Duplicate(sums.Get<int16_t>(), static_cast<int16_t>(0), count);
        Settle();
        AddCounts(codes, static_cast<int16_t>(group));
        for (uint32_t p = 0; p < planes; ++p) {
            AndPattern(masked, codes, pattern[p * HALFWORDS]);
            AddCounts(masked, static_cast<int16_t>(-(2 << p)));
        }
        codesQueue.FreeTensor(codes);

        // Words to tokens: neighbours are added until each token is one float.
        LocalTensor<float> from = scratch.Get<float>(), to = scratch.Get<float>()[count];
        Cast(from, sums.Get<int16_t>(), RoundMode::CAST_NONE, count);
        Settle();
        for (uint32_t left = count; left > tile; left /= 2) {
            for (uint32_t done = 0; done < left; done += REPEATS * FLOATS) {
                const uint32_t repeats = Smaller((left - done) / FLOATS, REPEATS);
                PairReduceSum(to[done / 2], from[done], repeats, FLOATS, 1, 1, 8);
            }
            Settle();
            const LocalTensor<float> other = from;
            from = to;
            to = other;
        }
        Adds(from, from, static_cast<float>(ones), tile);
        Settle();
        if (valid < tile) {
            LocalTensor<float> late = shifted.Get<float>();
            Adds(late, places.Get<float>(), 1.0f - static_cast<float>(valid), tile);
            Settle();
            Maxs(late, late, 0.0f, tile);
            Settle();
            Muls(late, late, ABSENT, tile);
            Settle();
            Add(from, from, late, tile);
            Settle();
        }
        Min(to, from, from[FLOATS], FLOATS, tile / BLOCK, {1, 1, 1, 8, 16, 16});
        Settle();
        LocalTensor<float> minima = minimaQueue.AllocTensor<float>();
        WholeReduceMin(minima, to, FLOATS, tile / BLOCK, 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);
        return minima;
    }

    // dst = 1 where offset + sign * src >= 1, else 0, of integers.
    __aicore__ inline void Step(const LocalTensor<float>& dst, const LocalTensor<float>& src, float sign, float offset,
                                uint32_t length) {
        Muls(dst, src, sign, length);
        Settle();
        Adds(dst, dst, offset, length);
        Settle();
        Maxs(dst, dst, 0.0f, length);
        Settle();
        Mins(dst, dst, 1.0f, length);
        Settle();
    }

    __aicore__ inline uint32_t Sum(const LocalTensor<float>& src) {
        ReduceSum(total.Get<float>(), src, partial.Get<float>(), padded);
        Order<HardEvent::V_S>();
        const uint32_t sum = static_cast<uint32_t>(total.Get<float>().GetValue(0));
        Order<HardEvent::S_V>();
        return sum;
    }

    // How many blocks score at most `limit`; leaves a 1 for each in `shifted`.
    __aicore__ inline uint32_t AtMost(float limit) {
        Step(shifted.Get<float>(), keys.Get<float>(), -1.0f, limit + 1.0f, padded);
        return Sum(shifted.Get<float>());
    }

    __aicore__ inline void SelectRow(uint32_t row, uint32_t selected) {
        const uint32_t held = (Held(row) + BLOCK - 1) / BLOCK, wanted = Smaller(blocks, held);
        LocalTensor<float> place = places.Get<float>(), key = keys.Get<float>();
        LocalTensor<float> weight = weights.Get<float>(), step = shifted.Get<float>();
        LocalTensor<float> scores = scoresQueue.AllocTensor<float>();
        DataCopy(scores, minimaGm[row * padded], padded);
        scoresQueue.EnQue(scores);
        scores = scoresQueue.DeQue<float>();

        // Sink and recent blocks score -1: key = score - forced (score + 1).
        const uint32_t late = held > recent ? held - recent : 0;
        Step(weight, place, -1.0f, static_cast<float>(sink), padded);
        Step(step, place, 1.0f, 1.0f - static_cast<float>(late), padded);
        Max(weight, weight, step, padded);
        Settle();
        Step(step, place, -1.0f, static_cast<float>(held), padded);
        Mul(weight, weight, step, padded);
        Settle();
        Adds(step, scores, 1.0f, padded);
        Settle();
        Mul(step, step, weight, padded);
        Settle();
        Sub(key, scores, step, padded);
        Settle();
        scoresQueue.FreeTensor(scores);

        // The lowest limit that lets enough blocks in.
        int32_t low = -1, high = static_cast<int32_t>(group * words * 32);
        while (low < high) {
            const int32_t middle = (low + high + 2) / 2 - 1;  // rounded down, below zero too
            if (AtMost(static_cast<float>(middle)) >= wanted) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        const uint32_t below = AtMost(static_cast<float>(low - 1));
        // Of the blocks that score `low` exactly, the last ones: from which place on are there enough?
        Adds(weight, step, 0.0f, padded);
        Settle();
        AtMost(static_cast<float>(low));
        Sub(step, step, weight, padded);
        Settle();
        Adds(key, step, 0.0f, padded);  // 1 for each block of that score
        Settle();
        uint32_t first = 0, last = padded;
        while (first + 1 < last) {
            const uint32_t middle = (first + last) / 2;
            Step(step, place, 1.0f, 1.0f - static_cast<float>(middle), padded);
            Mul(step, step, key, padded);
            Settle();
            if (Sum(step) >= wanted - below) {
                first = middle;
            } else {
                last = middle;
            }
        }
        Step(step, place, 1.0f, 1.0f - static_cast<float>(first), padded);
        Mul(step, step, key, padded);
        Settle();
        Add(weight, weight, step, padded);
        Settle();
        WriteRow(row, wanted, selected);
    }

    // Blocks of weight 1, in order, then -1.
    __aicore__ inline void WriteRow(uint32_t row, uint32_t wanted, uint32_t selected) {
        LocalTensor<float> place = places.Get<float>(), picked = keys.Get<float>();
        LocalTensor<float> weight = weights.Get<float>();
        LocalTensor<uint8_t> bits = chosen.Get<uint8_t>();
        Duplicate(picked, 0.0f, widest);
        CompareScalar(bits, weight, 0.5f, CMPMODE::GT, padded);
        Settle();
        uint64_t kept = 0;
        GatherMask(picked, place, bits.ReinterpretCast<uint32_t>(), true, padded, {1, 1, 8, 8}, kept);
        Settle();
        // The mask of the first `wanted` places takes what lay there before: (picked + 1) * mask - 1.
        LocalTensor<int32_t> indices = indicesQueue.AllocTensor<int32_t>();
        for (uint32_t done = 0; done < selected; done += padded) {
            const uint32_t length = Smaller(selected - done, padded);
            Step(weight, place[done], -1.0f, static_cast<float>(wanted), length);
            Adds(picked[done], picked[done], 1.0f, length);
            Settle();
            Mul(picked[done], picked[done], weight, length);
            Settle();
            Adds(picked[done], picked[done], -1.0f, length);
            Settle();
        }
        Cast(indices, picked, RoundMode::CAST_RINT, selected);
        Settle();
        indicesQueue.EnQue(indices);
        indices = indicesQueue.DeQue<int32_t>();
        const DataCopyExtParams shape = {1, static_cast<uint32_t>(blocks * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(indicesGm[row * blocks], indices, shape);
        indicesQueue.FreeTensor(indices);
    }

    const uint32_t rows, kvHeads, group, words, capacity, blocks, sink, recent;
    const uint32_t tile, buffers, tiles, padded, widest, planes;
    const uint32_t count;  // 16-bit words of a tile
    uint32_t ones = 0;     // sum of c_j
    GlobalTensor<uint32_t> queryGm;
    GlobalTensor<uint16_t> keysGm;
    GlobalTensor<int32_t> lengthGm, indicesGm;
    GlobalTensor<float> minimaGm;
    TQue<TPosition::VECIN, 2> codesQueue;
    TQue<TPosition::VECOUT, 2> minimaQueue;
    TQue<TPosition::VECIN, 1> scoresQueue;
    TQue<TPosition::VECOUT, 1> indicesQueue;
    TBuf<TPosition::VECCALC> scratch, sums, places, shifted, patterns, keys, weights, partial, total, chosen;
};

}  // namespace

extern "C" __global__ __aicore__ void hamming_blocks(GM_ADDR query_codes, GM_ADDR key_codes, GM_ADDR length,
                                                     GM_ADDR indices, GM_ADDR workspace, GM_ADDR tiling) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    GET_TILING_DATA(data, tiling);
    TPipe pipe;
    HammingBlocksKernel kernel(query_codes, key_codes, length, indices, GetUserWorkspace(workspace), data);
    kernel.Score(pipe);
    PipeBarrier<PIPE_ALL>();
    SyncAll();  // every row's minima are written
    pipe.Reset();
    kernel.Select(pipe);
}
