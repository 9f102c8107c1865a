// HammingBlocks: the 128-token blocks of the keys nearest to a query by Hamming distance of their codes.
//
//   query_codes  int32 [B, Hq, 1, w]    sign bits, 32 to a word
//   key_codes    int32 [B, Hkv, C, w]
//   length       int32 [B]              tokens held
//   -> indices   int32 [B, Hkv, blocks] numbers of blocks, ascending, -1 after the last
//
// A token's score is the sum of the distances over the query heads of its KV head; a block's is its lowest; of equal
// blocks the last is taken; the first `sink_blocks` and the last `recent_blocks` always are.
#include <cstdio>

#include "hamming_blocks_tiling.h"
#include "plan.h"
#include "register/op_def_registry.h"
#include "tiling/platform/platform_ascendc.h"

namespace optiling {
static ge::graphStatus TileHammingBlocks(gert::TilingContext* context) {
    const auto query = context->GetInputShape(0)->GetStorageShape();
    const auto keys = context->GetInputShape(1)->GetStorageShape();
    const auto* attributes = context->GetAttrs();
    auto platform = platform_ascendc::PlatformAscendC(context->GetPlatformInfo());
    npukv::Card card = {0, static_cast<uint32_t>(platform.GetCoreNumAiv())};
    platform.GetCoreMemSize(platform_ascendc::CoreMemType::UB, card.unified_buffer);

    npukv::HammingPlan plan = {};
    const char* wrong = npukv::plan_hamming(card, query.GetDim(0), query.GetDim(1), keys.GetDim(1), keys.GetDim(2),
                                            keys.GetDim(3), *attributes->GetInt(0), *attributes->GetInt(1),
                                            *attributes->GetInt(2), plan);
    if (wrong != nullptr) {
        std::fprintf(stderr, "HammingBlocks: %s\n", wrong);
        return ge::GRAPH_FAILED;
    }
    HammingBlocksTilingData tiling;
    tiling.set_rows(plan.rows);
    tiling.set_kvHeads(plan.kv_heads);
    tiling.set_group(plan.group);
    tiling.set_words(plan.words);
    tiling.set_capacity(plan.capacity);
    tiling.set_blocks(plan.blocks);
    tiling.set_sink(plan.sink);
    tiling.set_recent(plan.recent);
    tiling.set_tile(plan.tile);
    tiling.set_buffers(plan.buffers);
    tiling.set_tiles(plan.tiles);
    tiling.set_padded(plan.padded);
    tiling.set_widest(plan.widest);
    tiling.set_planes(plan.planes);
    tiling.SaveToBuffer(context->GetRawTilingData()->GetData(), context->GetRawTilingData()->GetCapacity());
    context->GetRawTilingData()->SetDataSize(tiling.GetDataSize());
    context->SetBlockDim(plan.cores);
    context->SetScheduleMode(1);  // all cores at once: they wait for each other between scoring and selecting
    context->GetWorkspaceSizes(1)[0] = platform.GetLibApiWorkSpaceSize() + plan.workspace;
    return ge::GRAPH_SUCCESS;
}
}  // namespace optiling

namespace ge {
static graphStatus ShapeOfHammingBlocks(gert::InferShapeContext* context) {
    const gert::Shape* keys = context->GetInputShape(1);
    gert::Shape* indices = context->GetOutputShape(0);
    indices->SetDimNum(3);
    indices->SetDim(0, keys->GetDim(0));
    indices->SetDim(1, keys->GetDim(1));
    indices->SetDim(2, *context->GetAttrs()->GetInt(0));
    return GRAPH_SUCCESS;
}

static graphStatus TypeOfHammingBlocks(gert::InferDataTypeContext* context) {
    context->SetOutputDataType(0, ge::DT_INT32);
    return GRAPH_SUCCESS;
}
}  // namespace ge

namespace ops {
class HammingBlocks : public OpDef {
public:
    explicit HammingBlocks(const char* name) : OpDef(name) {
        this->Input("query_codes").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND});
        this->Input("key_codes").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND});
        this->Input("length").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND});
        this->Output("indices").ParamType(REQUIRED).DataType({ge::DT_INT32}).Format({ge::FORMAT_ND});
        this->Attr("blocks").AttrType(REQUIRED).Int();
        this->Attr("sink_blocks").AttrType(REQUIRED).Int();
        this->Attr("recent_blocks").AttrType(REQUIRED).Int();
        this->SetInferShape(ge::ShapeOfHammingBlocks);
        this->SetInferDataType(ge::TypeOfHammingBlocks);
        this->AICore().SetTiling(optiling::TileHammingBlocks);
        this->AICore().AddConfig("ascend910b");
        this->AICore().AddConfig("ascend910_93");
    }
};
OP_ADD(HammingBlocks);
}  // namespace ops
