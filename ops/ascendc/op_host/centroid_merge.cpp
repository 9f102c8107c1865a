// CentroidMerge: tokens of each chunk merge by degree-weighted means; what is left moves together.
//
//   keys, values  [B, H, L, D]     half, bfloat16 or float
//   degrees       float [B, H, L]  tokens that each stands for
//   places        int32 [B, H, L]  each token's place among those left, as one pass of soft matching makes them: of the
//                                  first `chunks` chunks of `chunk` tokens, chunk i of n gives up as many as lie from
//                                  floor(merges i / n) to floor(merges (i + 1) / n); its tokens go to its own places
//   -> merged_keys, merged_values [B, H, L - merges, D], merged_degrees float [B, H, L - merges]
#include <cstdio>

#include "centroid_merge_tiling.h"
#include "plan.h"
#include "register/op_def_registry.h"
#include "tiling/platform/platform_ascendc.h"

namespace optiling {
static ge::graphStatus TileCentroidMerge(gert::TilingContext* context) {
    const auto keys = context->GetInputShape(0)->GetStorageShape();
    const auto* attributes = context->GetAttrs();
    const auto type = context->GetInputDesc(0)->GetDataType();
    auto platform = platform_ascendc::PlatformAscendC(context->GetPlatformInfo());
    npukv::Card card = {0, static_cast<uint32_t>(platform.GetCoreNumAiv())};
    platform.GetCoreMemSize(platform_ascendc::CoreMemType::UB, card.unified_buffer);

    npukv::MergePlan plan = {};
    const char* wrong = npukv::plan_merge(card, keys.GetDim(0) * keys.GetDim(1), keys.GetDim(2), keys.GetDim(3),
                                          *attributes->GetInt(0), *attributes->GetInt(1), *attributes->GetInt(2),
                                          type == ge::DT_FLOAT ? 4 : 2, plan);
    if (wrong != nullptr) {
        std::fprintf(stderr, "CentroidMerge: %s\n", wrong);
        return ge::GRAPH_FAILED;
    }
    CentroidMergeTilingData tiling;
    tiling.set_rows(plan.rows);
    tiling.set_tokens(plan.tokens);
    tiling.set_width(plan.width);
    tiling.set_chunks(plan.chunks);
    tiling.set_chunk(plan.chunk);
    tiling.set_merges(plan.merges);
    tiling.set_columns(plan.columns);
    tiling.set_tile(plan.tile);
    tiling.set_parts(plan.parts);
    tiling.SaveToBuffer(context->GetRawTilingData()->GetData(), context->GetRawTilingData()->GetCapacity());
    context->GetRawTilingData()->SetDataSize(tiling.GetDataSize());
    context->SetBlockDim(plan.cores);
    context->SetTilingKey(type == ge::DT_FLOAT16 ? 0 : type == ge::DT_BF16 ? 1 : 2);
    context->GetWorkspaceSizes(1)[0] = platform.GetLibApiWorkSpaceSize();
    return ge::GRAPH_SUCCESS;
}
}  // namespace optiling

namespace ge {
static graphStatus ShapeOfCentroidMerge(gert::InferShapeContext* context) {
    const gert::Shape* keys = context->GetInputShape(0);
    const int64_t merges = *context->GetAttrs()->GetInt(2);
    for (int output = 0; output < 3; ++output) {
        gert::Shape* merged = context->GetOutputShape(output);
        merged->SetDimNum(output < 2 ? 4 : 3);
        merged->SetDim(0, keys->GetDim(0));
        merged->SetDim(1, keys->GetDim(1));
        merged->SetDim(2, keys->GetDim(2) - merges);
        if (output < 2) merged->SetDim(3, keys->GetDim(3));
    }
    return GRAPH_SUCCESS;
}

static graphStatus TypeOfCentroidMerge(gert::InferDataTypeContext* context) {
    context->SetOutputDataType(0, context->GetInputDataType(0));
    context->SetOutputDataType(1, context->GetInputDataType(0));
    context->SetOutputDataType(2, ge::DT_FLOAT);
    return GRAPH_SUCCESS;
}
}  // namespace ge

namespace ops {
class CentroidMerge : public OpDef {
public:
    explicit CentroidMerge(const char* name) : OpDef(name) {
        const auto stored = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_FLOAT};
        const auto floats = {ge::DT_FLOAT, ge::DT_FLOAT, ge::DT_FLOAT};
        const auto numbers = {ge::DT_INT32, ge::DT_INT32, ge::DT_INT32};
        const auto format = {ge::FORMAT_ND, ge::FORMAT_ND, ge::FORMAT_ND};
        this->Input("keys").ParamType(REQUIRED).DataType(stored).Format(format);
        this->Input("values").ParamType(REQUIRED).DataType(stored).Format(format);
        this->Input("degrees").ParamType(REQUIRED).DataType(floats).Format(format);
        this->Input("places").ParamType(REQUIRED).DataType(numbers).Format(format);
        this->Output("merged_keys").ParamType(REQUIRED).DataType(stored).Format(format);
        this->Output("merged_values").ParamType(REQUIRED).DataType(stored).Format(format);
        this->Output("merged_degrees").ParamType(REQUIRED).DataType(floats).Format(format);
        this->Attr("chunks").AttrType(REQUIRED).Int();
        this->Attr("chunk").AttrType(REQUIRED).Int();
        this->Attr("merges").AttrType(REQUIRED).Int();
        this->SetInferShape(ge::ShapeOfCentroidMerge);
        this->SetInferDataType(ge::TypeOfCentroidMerge);
        this->AICore().SetTiling(optiling::TileCentroidMerge);
        this->AICore().AddConfig("ascend910b");
        this->AICore().AddConfig("ascend910_93");
    }
};
OP_ADD(CentroidMerge);
}  // namespace ops
