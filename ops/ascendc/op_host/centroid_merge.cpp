// CentroidMerge: tokens of each chunk merge into others by degree-weighted means; what is left moves together.
//
//   keys, values    [B, H, n, D]       half, bfloat16 or float
//   degrees         float [B, H, n]    tokens that each stands for
//   source, target  int32 [B, H, n/c, r]  places within the chunk: source merges into target. No place is a source twice
//                                         or both source and target; a target may take several.
//   -> merged_keys, merged_values [B, H, n/c (c - r), D], merged_degrees [B, H, n/c (c - r)], in the order of the tokens
#include <cstdio>

#include "centroid_merge_tiling.h"
#include "plan.h"
#include "register/op_def_registry.h"
#include "tiling/platform/platform_ascendc.h"

namespace optiling {
static ge::graphStatus TileCentroidMerge(gert::TilingContext* context) {
    const auto keys = context->GetInputShape(0)->GetStorageShape();
    const auto source = context->GetInputShape(3)->GetStorageShape();
    const auto type = context->GetInputDesc(0)->GetDataType();
    auto platform = platform_ascendc::PlatformAscendC(context->GetPlatformInfo());
    npukv::Card card = {0, static_cast<uint32_t>(platform.GetCoreNumAiv())};
    platform.GetCoreMemSize(platform_ascendc::CoreMemType::UB, card.unified_buffer);

    npukv::MergePlan plan = {};
    const char* wrong = npukv::plan_merge(card, keys.GetDim(0) * keys.GetDim(1), keys.GetDim(2), keys.GetDim(3),
                                          source.GetDim(2), source.GetDim(3), type == ge::DT_FLOAT ? 4 : 2, plan);
    if (wrong != nullptr) {
        std::fprintf(stderr, "CentroidMerge: %s\n", wrong);
        return ge::GRAPH_FAILED;
    }
    CentroidMergeTilingData tiling;
    tiling.set_chunks(plan.chunks);
    tiling.set_chunk(plan.chunk);
    tiling.set_merges(plan.merges);
    tiling.set_width(plan.width);
    tiling.set_columns(plan.columns);
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
    const gert::Shape* source = context->GetInputShape(3);
    for (int output = 0; output < 3; ++output) {
        gert::Shape* merged = context->GetOutputShape(output);
        merged->SetDimNum(output < 2 ? 4 : 3);
        merged->SetDim(0, keys->GetDim(0));
        merged->SetDim(1, keys->GetDim(1));
        merged->SetDim(2, keys->GetDim(2) - source->GetDim(2) * source->GetDim(3));
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
        const auto places = {ge::DT_INT32, ge::DT_INT32, ge::DT_INT32};
        const auto format = {ge::FORMAT_ND, ge::FORMAT_ND, ge::FORMAT_ND};
        this->Input("keys").ParamType(REQUIRED).DataType(stored).Format(format);
        this->Input("values").ParamType(REQUIRED).DataType(stored).Format(format);
        this->Input("degrees").ParamType(REQUIRED).DataType(floats).Format(format);
        this->Input("source").ParamType(REQUIRED).DataType(places).Format(format);
        this->Input("target").ParamType(REQUIRED).DataType(places).Format(format);
        this->Output("merged_keys").ParamType(REQUIRED).DataType(stored).Format(format);
        this->Output("merged_values").ParamType(REQUIRED).DataType(stored).Format(format);
        this->Output("merged_degrees").ParamType(REQUIRED).DataType(floats).Format(format);
        this->SetInferShape(ge::ShapeOfCentroidMerge);
        this->SetInferDataType(ge::TypeOfCentroidMerge);
        this->AICore().SetTiling(optiling::TileCentroidMerge);
        this->AICore().AddConfig("ascend910b");
        this->AICore().AddConfig("ascend910_93");
    }
};
OP_ADD(CentroidMerge);
}  // namespace ops
