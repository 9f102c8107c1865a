// Stands in for CANN's header of this name: an operator's definition is kept for the test to read, and its tiling and
// its inference of shapes and types run on what the test puts into their contexts.
#ifndef SHIM_OP_DEF_REGISTRY_H
#define SHIM_OP_DEF_REGISTRY_H

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "tiling/platform/platform_ascendc.h"

namespace ge {
enum DataType { DT_FLOAT = 0, DT_FLOAT16 = 1, DT_INT32 = 3, DT_BF16 = 27 };
enum Format { FORMAT_ND = 2 };
using graphStatus = uint32_t;
constexpr graphStatus GRAPH_SUCCESS = 0, GRAPH_FAILED = 0xFFFFFFFF;
}  // namespace ge

namespace gert {
class Shape {
public:
    void SetDimNum(size_t number) { sizes.resize(number); }
    size_t GetDimNum() const { return sizes.size(); }
    void SetDim(size_t i, int64_t size) { sizes.at(i) = size; }
    int64_t GetDim(size_t i) const { return sizes.at(i); }
    std::vector<int64_t> sizes;
};

struct StorageShape {
    Shape shape;
    const Shape& GetStorageShape() const { return shape; }
};

struct Desc {
    ge::DataType type;
    ge::DataType GetDataType() const { return type; }
};

struct Attributes {
    std::deque<int64_t> values;
    const int64_t* GetInt(size_t i) const { return &values.at(i); }
};

struct TilingData {
    std::vector<uint8_t> bytes = std::vector<uint8_t>(4096);
    size_t size = 0;
    void* GetData() { return bytes.data(); }
    size_t GetCapacity() const { return bytes.size(); }
    void SetDataSize(size_t used) { size = used; }
};

struct TilingContext {
    std::vector<StorageShape> shapes;
    std::vector<Desc> descs;
    Attributes attributes;
    fe::PlatFormInfos platform;
    TilingData data;
    uint32_t cores = 0, schedule = 0;
    uint64_t key = 0;
    size_t workspace = 0;
    const StorageShape* GetInputShape(size_t i) const { return &shapes.at(i); }
    const Desc* GetInputDesc(size_t i) const { return &descs.at(i); }
    const Attributes* GetAttrs() const { return &attributes; }
    fe::PlatFormInfos* GetPlatformInfo() { return &platform; }
    TilingData* GetRawTilingData() { return &data; }
    size_t* GetWorkspaceSizes(size_t) { return &workspace; }
    void SetBlockDim(uint32_t number) { cores = number; }
    void SetTilingKey(uint64_t number) { key = number; }
    void SetScheduleMode(uint32_t mode) { schedule = mode; }
};

struct InferShapeContext {
    std::vector<Shape> inputs, outputs = std::vector<Shape>(4);
    Attributes attributes;
    const Shape* GetInputShape(size_t i) const { return &inputs.at(i); }
    Shape* GetOutputShape(size_t i) { return &outputs.at(i); }
    const Attributes* GetAttrs() const { return &attributes; }
};

struct InferDataTypeContext {
    std::vector<ge::DataType> inputs, outputs = std::vector<ge::DataType>(4);
    ge::DataType GetInputDataType(size_t i) const { return inputs.at(i); }
    void SetOutputDataType(size_t i, ge::DataType type) { outputs.at(i) = type; }
};
}  // namespace gert

namespace ops {
enum Option { IGNORE = 0, OPTIONAL = 1, REQUIRED = 2 };

struct Parameter {
    std::string name;
    std::vector<ge::DataType> types;
    std::vector<ge::Format> formats;
    Option option = REQUIRED;
    Parameter& ParamType(Option of) { option = of; return *this; }
    Parameter& AttrType(Option of) { option = of; return *this; }
    Parameter& DataType(std::vector<ge::DataType> of) { types = of; return *this; }
    Parameter& Format(std::vector<ge::Format> of) { formats = of; return *this; }
    void Int() {}
};

struct AiCore {
    ge::graphStatus (*tiling)(gert::TilingContext*) = nullptr;
    std::vector<std::string> chips;
    void SetTiling(ge::graphStatus (*function)(gert::TilingContext*)) { tiling = function; }
    void AddConfig(const char* chip) { chips.push_back(chip); }
};

struct OpDef {
    explicit OpDef(const char* name) : name(name) {}
    std::string name;
    std::deque<Parameter> inputs, outputs, attributes;
    AiCore core;
    ge::graphStatus (*shape)(gert::InferShapeContext*) = nullptr;
    ge::graphStatus (*type)(gert::InferDataTypeContext*) = nullptr;
    static Parameter& add(std::deque<Parameter>& to, const char* name) {
        to.emplace_back();
        to.back().name = name;
        return to.back();
    }
    Parameter& Input(const char* called) { return add(inputs, called); }
    Parameter& Output(const char* called) { return add(outputs, called); }
    Parameter& Attr(const char* called) { return add(attributes, called); }
    void SetInferShape(ge::graphStatus (*function)(gert::InferShapeContext*)) { shape = function; }
    void SetInferDataType(ge::graphStatus (*function)(gert::InferDataTypeContext*)) { type = function; }
    AiCore& AICore() { return core; }
};

inline OpDef*& defined() {
    static OpDef* op = nullptr;
    return op;
}
}  // namespace ops

#define OP_ADD(type)                                   \
    static type op_##type(#type);                      \
    static const bool added_##type = [] {              \
        ops::defined() = &op_##type;                   \
        return true;                                   \
    }()

#endif
