// A vector core as the tests see it: a unified buffer of given size, four pipes that run on their own until told to wait
// for each other, and everything that a kernel does wrong as an error.
//
// Order is kept as vector clocks: every access to the unified buffer has a time; a pipe knows up to which time each
// other pipe has finished. An access that conflicts with one not known to have finished is an error, whatever the order
// in which this program happens to run.
#ifndef SHIM_CORE_H
#define SHIM_CORE_H

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace AscendC {

enum pipe_t { PIPE_S, PIPE_V, PIPE_MTE2, PIPE_MTE3, PIPE_ALL };
constexpr int PIPES = 4;

struct Violation : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline void require(bool good, const std::string& what) {
    if (!good) throw Violation(what);
}

struct Range {
    const uint8_t* start;
    uint64_t bytes;
};

constexpr uint32_t DATA_BLOCK = 32;
using Known = std::array<uint64_t, PIPES>;

struct Core {
    Core(uint32_t number, uint32_t of, uint64_t size)
        : id(number), cores(of), memory(size + DATA_BLOCK, 0xFF),
          buffer(memory.data() + (DATA_BLOCK - reinterpret_cast<uintptr_t>(memory.data()) % DATA_BLOCK)), bytes(size) {
        for (int pipe = 0; pipe < PIPES; ++pipe) {
            written[pipe].assign(size / DATA_BLOCK, 0);
            read[pipe].assign(size / DATA_BLOCK, 0);
        }
    }

    uint32_t id, cores;
    std::vector<uint8_t> memory;  // not initialised, as far as a kernel may assume: all ones
    uint8_t* buffer;
    uint64_t bytes, used = 0, most = 0;
    uint64_t now = 0;
    std::array<Known, PIPES> known{};  // known[p][q]: up to when p knows q to have finished
    std::array<std::vector<uint64_t>, PIPES> written, read;  // when each pipe last touched each block
    std::array<uint64_t, PIPES> latest{};
    std::map<std::pair<int, int>, std::vector<Known>> flags;  // by event and number, set and not yet waited for
    std::vector<std::string> held;                            // buffers of queues that a kernel has not given back

    Known snapshot(int pipe) const {
        Known clock = known[pipe];
        clock[pipe] = now;
        return clock;
    }

    void learn(int pipe, const Known& clock) {
        for (int other = 0; other < PIPES; ++other) known[pipe][other] = std::max(known[pipe][other], clock[other]);
    }

    void finish() {
        for (auto& entry : flags) require(entry.second.empty(), "a flag is set that nothing waits for");
        require(held.empty(), "FreeTensor is missing: " + (held.empty() ? "" : held.back()));
    }
};

// What all cores share: the memory of the card, and whose turn it is. One core runs at a time, in random order, up to
// its end or to where all must meet.
struct Machine {
    std::vector<Range> global;
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<uint32_t> order;
    uint32_t turn = 0, waiting = 0, ended = 0, met = 0;
    bool failed = false;
    std::string error;
    uint64_t tiling_key = 0, most = 0;
};

inline Machine*& machine() {
    static Machine* current = nullptr;
    return current;
}

inline Core*& core() {
    static thread_local Core* current = nullptr;
    return current;
}

inline void check_global(const void* start, uint64_t bytes, const char* what) {
    const auto* first = static_cast<const uint8_t*>(start);
    for (const Range& range : machine()->global)
        if (first >= range.start && first + bytes <= range.start + range.bytes) return;
    require(bytes == 0, std::string(what) + " outside of every tensor in global memory");
}

// One instruction: its accesses to the unified buffer are checked as they are named and noted when it ends.
class Instruction {
public:
    explicit Instruction(int pipe, const char* name) : pipe(pipe), name(name) {}
    Instruction(const Instruction&) = delete;
    ~Instruction() {
        Core& c = *core();
        ++c.now;
        for (const Access& access : accesses) {
            auto& times = access.write ? c.written[pipe] : c.read[pipe];
            for (uint64_t block = access.from / DATA_BLOCK; block * DATA_BLOCK < access.to; ++block) times[block] = c.now;
            c.latest[pipe] = c.now;
        }
    }

    void access(uint64_t from, uint64_t bytes, bool write) {
        static const char* const NAMES[] = {"scalar", "vector", "copy-in", "copy-out"};
        Core& c = *core();
        require(from + bytes <= c.bytes, std::string(name) + ": outside of the unified buffer");
        for (int other = 0; other < PIPES; ++other) {
            if (other == pipe && pipe != PIPE_V) continue;  // in order by themselves
            const uint64_t finished = c.known[pipe][other];
            if (c.latest[other] <= finished) continue;
            for (uint64_t block = from / DATA_BLOCK; block * DATA_BLOCK < from + bytes; ++block) {
                const bool clash = c.written[other][block] > finished || (write && c.read[other][block] > finished);
                require(!clash, std::string(name) + ": does not wait for the " + NAMES[other] + " pipe");
            }
        }
        for (const Access& a : accesses) {
            const bool overlap = from < a.to && a.from < from + bytes, same = from == a.from && from + bytes == a.to;
            require(!overlap || same || (!write && !a.write), std::string(name) + ": operands overlap in part");
        }
        accesses.push_back({from, from + bytes, write});
    }

private:
    struct Access {
        uint64_t from, to;
        bool write;
    };
    int pipe;
    const char* name;
    std::vector<Access> accesses;
};

// Where all cores meet. The last to come gives the turn to the first again.
inline void wait_for_turn(std::unique_lock<std::mutex>& lock) {
    Machine& m = *machine();
    m.changed.wait(lock, [&] { return m.failed || m.order[m.turn] == core()->id; });
    if (m.failed) throw Violation("");
}

inline void meet() {
    Machine& m = *machine();
    std::unique_lock<std::mutex> lock(m.mutex);
    require(m.ended == 0, "SyncAll: another core has ended without it");
    const uint32_t round = m.met;
    ++m.turn;
    if (++m.waiting == core()->cores) {
        m.waiting = m.turn = 0;
        ++m.met;
    }
    m.changed.notify_all();
    m.changed.wait(lock, [&] { return m.failed || (m.met != round && m.order[m.turn] == core()->id); });
    if (m.failed) throw Violation("");
}

// Runs a kernel on every core; gives "" or what it did wrong.
template <typename Kernel>
std::string run_cores(Machine& m, uint32_t cores, uint64_t unified_buffer, uint32_t seed, Kernel kernel) {
    machine() = &m;
    for (uint32_t i = 0; i < cores; ++i) m.order.push_back(i);
    std::shuffle(m.order.begin(), m.order.end(), std::mt19937(seed));
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < cores; ++i) {
        threads.emplace_back([&, i] {
            Core here(i, cores, unified_buffer);
            core() = &here;
            std::string wrong;
            try {
                {
                    std::unique_lock<std::mutex> lock(m.mutex);
                    wait_for_turn(lock);
                }
                kernel();
                here.finish();
            } catch (const Violation& violation) {
                wrong = violation.what();
            }
            std::unique_lock<std::mutex> lock(m.mutex);
            m.most = std::max(m.most, here.most);
            if (!wrong.empty() || m.waiting > 0) {
                if (m.error.empty()) m.error = wrong.empty() ? "a core ends while others wait in SyncAll" : wrong;
                m.failed = true;
            }
            ++m.ended;
            ++m.turn;
            m.changed.notify_all();
        });
    }
    for (auto& thread : threads) thread.join();
    machine() = nullptr;
    return m.error;
}

}  // namespace AscendC

#endif
