// Stands in for CANN's header of this name: tiling data as a plain structure.
#ifndef SHIM_TILINGDATA_BASE_H
#define SHIM_TILINGDATA_BASE_H

#include <cstdint>
#include <cstring>

#define BEGIN_TILING_DATA_DEF(name)                              \
    struct name {                                                \
        using Self = name;                                       \
        uint64_t GetDataSize() const { return sizeof(Self); }    \
        void SaveToBuffer(void* to, uint64_t capacity) const {   \
            if (capacity >= sizeof(Self)) std::memcpy(to, this, sizeof(Self)); \
        }
#define TILING_DATA_FIELD_DEF(type, field) \
    type field = {};                       \
    void set_##field(type value) { field = value; }
#define END_TILING_DATA_DEF }
#define REGISTER_TILING_DATA_CLASS(op, name)

#endif
