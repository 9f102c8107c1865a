// What the host tells the kernel of `HammingBlocks`; the fields of npukv::HammingPlan.
#ifndef NPUKV_HAMMING_BLOCKS_TILING_H
#define NPUKV_HAMMING_BLOCKS_TILING_H

#include "register/tilingdata_base.h"

namespace optiling {
BEGIN_TILING_DATA_DEF(HammingBlocksTilingData)
TILING_DATA_FIELD_DEF(uint32_t, rows);
TILING_DATA_FIELD_DEF(uint32_t, kvHeads);
TILING_DATA_FIELD_DEF(uint32_t, group);
TILING_DATA_FIELD_DEF(uint32_t, words);
TILING_DATA_FIELD_DEF(uint32_t, capacity);
TILING_DATA_FIELD_DEF(uint32_t, blocks);
TILING_DATA_FIELD_DEF(uint32_t, sink);
TILING_DATA_FIELD_DEF(uint32_t, recent);
TILING_DATA_FIELD_DEF(uint32_t, tile);
TILING_DATA_FIELD_DEF(uint32_t, buffers);
TILING_DATA_FIELD_DEF(uint32_t, tiles);
TILING_DATA_FIELD_DEF(uint32_t, padded);
TILING_DATA_FIELD_DEF(uint32_t, widest);
TILING_DATA_FIELD_DEF(uint32_t, planes);
END_TILING_DATA_DEF;

REGISTER_TILING_DATA_CLASS(HammingBlocks, HammingBlocksTilingData)
}  // namespace optiling

#endif
