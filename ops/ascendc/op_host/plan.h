// How the work of each operator is cut for a card: plain arithmetic, without CANN, so that it is tested anywhere.
// What a card has (bytes of unified buffer, vector cores) is asked at run time and comes in as an argument.
#ifndef NPUKV_PLAN_H
#define NPUKV_PLAN_H

#include <cstdint>

namespace npukv {

constexpr uint32_t BLOCK = 128;      // tokens that are selected together: a page of paged attention
constexpr uint32_t TILE = 1024;      // fewest tokens scored at once: 8 blocks, whose minima fill 32 bytes
constexpr uint32_t RESERVED = 2048;  // bytes of unified buffer left to the framework
constexpr uint32_t PATTERN = 256;    // bytes of one vector instruction's repeat
constexpr uint32_t PLANES = 6;       // bits that count up to 63 query heads of one KV head
constexpr uint32_t CONSTANTS = 3;    // bit masks of the population count

struct Card {
    uint64_t unified_buffer;  // bytes of a vector core
    uint32_t cores;           // vector cores
};

constexpr uint64_t up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

struct HammingPlan {
    uint32_t rows, kv_heads, group, words, capacity, blocks, sink, recent;
    uint32_t tile;      // tokens scored at once
    uint32_t buffers;   // 2: the next tile is loaded while one is scored
    uint32_t tiles;     // per row, over the padded blocks
    uint32_t padded;    // blocks of a row in the workspace
    uint32_t widest;    // the larger of padded blocks and of selected ones, up to full repeats
    uint32_t planes;    // bits of a number up to `group`
    uint32_t cores;
    uint64_t workspace; // bytes
};

// Bytes of the unified buffer that scoring takes: codes, three scratch areas and a sum of 16-bit words, two rows of
// floats, the patterns, and the minima that go out.
constexpr uint64_t scoring_bytes(uint64_t tile, uint64_t words, uint64_t buffers) {
    const uint64_t codes = tile * words * 4;
    return codes * (buffers + 4) + 2 * tile * 4 + (PLANES + CONSTANTS) * PATTERN + 2 * up(tile / BLOCK * 4, 32);
}

// Bytes that selection takes: scores and places of all blocks, three working rows, the numbers that go out.
constexpr uint64_t selecting_bytes(uint64_t padded, uint64_t widest, uint64_t blocks) {
    return 4 * (3 * padded + 2 * widest + up(blocks, 64)) + up(padded / 8, 32) + up(padded / 16, 32) + 32;
}

// Fills the plan; gives what is wrong with the arguments, or nullptr.
inline const char* plan_hamming(const Card& card, int64_t batch, int64_t heads, int64_t kv_heads, int64_t capacity,
                                int64_t words, int64_t blocks, int64_t sink, int64_t recent, HammingPlan& plan) {
    if (batch < 1 || kv_heads < 1 || capacity < 1) return "query_codes and key_codes must not be empty";
    if (heads % kv_heads != 0) return "the query heads must be a multiple of the KV heads";
    if (words != 1 && words != 2 && words != 4 && words != 8) return "codes must have 32, 64, 128 or 256 bits";
    if (heads / kv_heads >= (1 << PLANES)) return "at most 63 query heads may share a KV head";
    if (sink < 0 || recent < 0 || blocks < 1 || blocks < sink + recent) return "blocks must hold sink and recent ones";
    const uint64_t room = card.unified_buffer - RESERVED;
    plan.rows = static_cast<uint32_t>(batch * kv_heads);
    plan.kv_heads = static_cast<uint32_t>(kv_heads);
    plan.group = static_cast<uint32_t>(heads / kv_heads);
    plan.words = static_cast<uint32_t>(words);
    plan.capacity = static_cast<uint32_t>(capacity);
    plan.blocks = static_cast<uint32_t>(blocks);
    plan.sink = static_cast<uint32_t>(sink);
    plan.recent = static_cast<uint32_t>(recent);
    plan.buffers = scoring_bytes(TILE, words, 2) <= room ? 2 : 1;
    if (scoring_bytes(TILE, words, plan.buffers) > room) return "the unified buffer is too small for a tile of codes";
    const uint64_t longest = up(capacity, TILE);
    plan.tile = TILE;
    while (plan.tile * 2 <= longest && plan.tile < 8 * TILE && scoring_bytes(plan.tile * 2, words, plan.buffers) <= room)
        plan.tile *= 2;
    // Whole tiles, and whole repeats of 64 floats for the selection.
    const uint64_t step = plan.tile / BLOCK < 64 ? 64 : plan.tile / BLOCK;
    plan.padded = static_cast<uint32_t>(up(up(capacity, BLOCK) / BLOCK, step));
    plan.tiles = plan.padded * BLOCK / plan.tile;
    const uint64_t selected = up(blocks, 64);
    plan.widest = static_cast<uint32_t>(selected > plan.padded ? selected : plan.padded);
    if (selecting_bytes(plan.padded, plan.widest, blocks) > room)
        return "too many blocks to select from at once: split the sequence";
    plan.planes = 1;
    while ((1u << plan.planes) <= plan.group) ++plan.planes;
    const uint64_t items = static_cast<uint64_t>(plan.rows) * plan.tiles;
    plan.cores = static_cast<uint32_t>(items < card.cores ? items : card.cores);
    plan.workspace = static_cast<uint64_t>(plan.rows) * plan.padded * sizeof(float);
    return nullptr;
}

constexpr uint32_t LONGEST = 1024;  // tokens of a chunk: the caches' of 512 are up to half as long again
constexpr uint32_t ROWS = 64;       // of a chunk that come in and go out at once

struct MergePlan {
    uint32_t rows, tokens, width, chunks, chunk, merges;
    uint32_t columns;  // of a key or value handled at once
    uint32_t tile;     // rows of a chunk that come in and go out at once
    uint32_t parts;    // of a row: its chunks, then what lies behind them in pieces as long
    uint32_t cores;
};

// Rows loaded, widened and narrowed; all means of a chunk; degrees, places, new degrees, and three lists of numbers.
constexpr uint64_t merging_bytes(uint64_t chunk, uint64_t tile, uint64_t columns, uint64_t element) {
    return tile * columns * (4 * element + sizeof(float)) + chunk * columns * sizeof(float) + 6 * up(chunk * 4, 32);
}

// Fills the plan; gives what is wrong with the arguments, or nullptr.
inline const char* plan_merge(const Card& card, int64_t rows, int64_t tokens, int64_t width, int64_t chunks,
                              int64_t chunk, int64_t merges, int64_t element, MergePlan& plan) {
    if (rows < 1 || tokens < 1) return "keys must not be empty";
    if (chunks < 1 || chunk < 2 || chunk % 2 != 0 || chunk > LONGEST) return "a chunk must have 2, 4, ... 1024 tokens";
    if (chunks * chunk > tokens) return "the chunks hold more tokens than there are";
    if (merges < 0 || merges > chunks * chunk / 2) return "at most half of the chunks' tokens can be merged away";
    const int64_t align = 32 / element;
    if (width < align || width % align != 0) return "a key must fill whole blocks of 32 bytes";
    const uint64_t room = card.unified_buffer - RESERVED;
    const int64_t tile = chunk < ROWS ? chunk : ROWS;
    int64_t columns = width;
    while (columns > align && merging_bytes(chunk, tile, columns, element) > room)
        columns = static_cast<int64_t>(up(columns / 2, align));
    if (merging_bytes(chunk, tile, columns, element) > room) return "the unified buffer is too small for a chunk";
    plan.rows = static_cast<uint32_t>(rows);
    plan.tokens = static_cast<uint32_t>(tokens);
    plan.width = static_cast<uint32_t>(width);
    plan.chunks = static_cast<uint32_t>(chunks);
    plan.chunk = static_cast<uint32_t>(chunk);
    plan.merges = static_cast<uint32_t>(merges);
    plan.columns = static_cast<uint32_t>(columns);
    plan.tile = static_cast<uint32_t>(tile);
    plan.parts = static_cast<uint32_t>(up(tokens, chunk) / chunk);
    const uint64_t items = static_cast<uint64_t>(plan.rows) * plan.parts;
    plan.cores = static_cast<uint32_t>(items < card.cores ? items : card.cores);
    return nullptr;
}

}  // namespace npukv

#endif
