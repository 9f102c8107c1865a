// What the host tells the kernel of `CentroidMerge`; the fields of npukv::MergePlan.
#ifndef NPUKV_CENTROID_MERGE_TILING_H
#define NPUKV_CENTROID_MERGE_TILING_H

#include "register/tilingdata_base.h"

namespace optiling {
BEGIN_TILING_DATA_DEF(CentroidMergeTilingData)
TILING_DATA_FIELD_DEF(uint32_t, rows);
TILING_DATA_FIELD_DEF(uint32_t, tokens);
TILING_DATA_FIELD_DEF(uint32_t, width);
TILING_DATA_FIELD_DEF(uint32_t, chunks);
TILING_DATA_FIELD_DEF(uint32_t, chunk);
TILING_DATA_FIELD_DEF(uint32_t, merges);
TILING_DATA_FIELD_DEF(uint32_t, columns);
TILING_DATA_FIELD_DEF(uint32_t, tile);
TILING_DATA_FIELD_DEF(uint32_t, parts);
END_TILING_DATA_DEF;

REGISTER_TILING_DATA_CLASS(CentroidMerge, CentroidMergeTilingData)
}  // namespace optiling

#endif
