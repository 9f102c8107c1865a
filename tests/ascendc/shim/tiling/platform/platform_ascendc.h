// Stands in for CANN's header of this name: what a card has is what the test says.
#ifndef SHIM_PLATFORM_ASCENDC_H
#define SHIM_PLATFORM_ASCENDC_H

#include <cstdint>

namespace fe {
struct PlatFormInfos {
    uint64_t unified_buffer = 0;
    uint32_t vector_cores = 0;
};
}  // namespace fe

namespace platform_ascendc {
enum class CoreMemType { UB, L1 };

class PlatformAscendC {
public:
    explicit PlatformAscendC(fe::PlatFormInfos* infos) : infos(infos) {}
    uint32_t GetCoreNumAiv() const { return infos->vector_cores; }
    uint32_t GetLibApiWorkSpaceSize() const { return 0; }  // GetUserWorkspace gives the start here
    void GetCoreMemSize(const CoreMemType& type, uint64_t& size) const {
        size = type == CoreMemType::UB ? infos->unified_buffer : 0;
    }

private:
    fe::PlatFormInfos* infos;
};
}  // namespace platform_ascendc

#endif
