// One operator, host and kernel, as a library that the tests call. Built with
//   -DHOST="..." -DKERNELS="..." -DTILING=name -DTENSORS=number
// KERNELS defines `entries`, an array of versions of the kernel: the one that there is, or some with planted bugs.
#include HOST

#include <sstream>

using KernelTiling = optiling::TILING;
#include "kernel_operator.h"
#include KERNELS

namespace {

std::string message;
gert::TilingContext planned;

template <size_t... I>
void call(int version, uint8_t* const* tensors, uint8_t* workspace, uint8_t* tiling, std::index_sequence<I...>) {
    entries[version](tensors[I]..., workspace, tiling);
}

std::vector<int64_t> sizes_of(const int64_t*& flat) {
    const int64_t* first = flat + 1;
    flat = first + *flat;
    return {first, flat};
}

}  // namespace

extern "C" {

const char* error() { return message.c_str(); }

// The operator's definition: one line each of "input NAME TYPES", "output NAME TYPES", "attr NAME", "chip NAME".
const char* definition() {
    std::ostringstream text;
    const ops::OpDef& op = *ops::defined();
    text << "op " << op.name << "\n";
    for (const auto* list : {&op.inputs, &op.outputs})
        for (const auto& parameter : *list) {
            text << (list == &op.inputs ? "input " : "output ") << parameter.name;
            for (auto type : parameter.types) text << " " << type;
            text << (parameter.formats.size() == parameter.types.size() ? "" : " formats?") << "\n";
        }
    for (const auto& parameter : op.attributes) text << "attr " << parameter.name << "\n";
    for (const auto& chip : op.core.chips) text << "chip " << chip << "\n";
    message = text.str();
    return message.c_str();
}

// Shapes: for each input its number of dimensions, then the sizes. Gives the cores, or 0.
uint32_t plan(const int64_t* shapes, const int32_t* types, int inputs, const int64_t* attributes, int number,
              uint64_t unified_buffer, uint32_t cores, uint64_t* workspace, uint32_t* tiling, int words) {
    planned = gert::TilingContext();
    for (int i = 0; i < inputs; ++i) {
        planned.shapes.push_back({gert::Shape{sizes_of(shapes)}});
        planned.descs.push_back({static_cast<ge::DataType>(types[i])});
    }
    planned.attributes.values.assign(attributes, attributes + number);
    planned.platform = {unified_buffer, cores};
    if (ops::defined()->core.tiling(&planned) != ge::GRAPH_SUCCESS) return 0;
    *workspace = planned.workspace;
    std::memcpy(tiling, planned.data.GetData(), words * sizeof(uint32_t));
    return planned.cores;
}

// Writes the outputs' shapes (number of dimensions, sizes; ...) and types; gives the status.
uint32_t infer(const int64_t* shapes, const int32_t* types, int inputs, const int64_t* attributes, int number,
               int64_t* out_shapes, int32_t* out_types) {
    gert::InferShapeContext shape;
    gert::InferDataTypeContext type;
    for (int i = 0; i < inputs; ++i) {
        shape.inputs.push_back(gert::Shape{sizes_of(shapes)});
        type.inputs.push_back(static_cast<ge::DataType>(types[i]));
    }
    shape.attributes.values.assign(attributes, attributes + number);
    const ge::graphStatus status = ops::defined()->shape(&shape) | ops::defined()->type(&type);
    for (size_t i = 0; i < ops::defined()->outputs.size(); ++i) {
        *out_shapes++ = static_cast<int64_t>(shape.outputs[i].sizes.size());
        for (int64_t size : shape.outputs[i].sizes) *out_shapes++ = size;
        *out_types++ = type.outputs[i];
    }
    return status;
}

// Runs what was planned last. Tensors in the kernel's order; the last range is the workspace. 0 = no rule was broken.
int run(int version, uint8_t* const* tensors, const uint64_t* bytes, uint64_t unified_buffer, uint32_t seed, uint64_t* most) {
    AscendC::Machine machine;
    machine.tiling_key = planned.key;
    for (int i = 0; i <= TENSORS; ++i) machine.global.push_back({tensors[i], bytes[i]});
    auto* tiling = static_cast<uint8_t*>(planned.data.GetData());
    message = AscendC::run_cores(machine, planned.cores, unified_buffer, seed, [&] {
        call(version, tensors, tensors[TENSORS], tiling, std::make_index_sequence<TENSORS>());
    });
    *most = machine.most;
    return message.empty() ? 0 : 1;
}
}
