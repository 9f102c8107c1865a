// A simulated `npu` device: host memory under torch's PrivateUse1 key.
//
// What runs on it is torch's own CPU kernels, but only those operators for which a release of torch_npu registers a
// kernel: any other is an error that names it. Memory is counted per card, with a limit. Work can be captured and
// replayed like a graph; what a card refuses while capturing (a copy to the host, a wait for a number) is refused here.
// It says nothing about a card's speed, its numerics, or what CANN accepts.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <unordered_set>

namespace {

using at::Tensor;

constexpr int kCards = 8;
constexpr auto kDevice = c10::DeviceType::PrivateUse1;

// ---- memory -------------------------------------------------------------------------------------------------------

struct Card {
  int64_t live = 0, peak = 0, limit = -1;
};
Card cards[kCards];
int cards_present = 1;
thread_local c10::DeviceIndex current_card = 0;

// In front of every block: its size and card. 64 bytes keep what follows aligned.
struct alignas(64) Header {
  int64_t bytes;
  int card;
};

void release(void* data) {
  if (data == nullptr) return;
  auto* header = static_cast<Header*>(data) - 1;
  cards[header->card].live -= header->bytes;
  std::free(header);
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    Card& card = cards[current_card];
    const c10::Device device(kDevice, current_card);
    if (bytes == 0) return {nullptr, nullptr, &release, device};
    TORCH_CHECK(
        card.limit < 0 || card.live + static_cast<int64_t>(bytes) <= card.limit,
        "NPU out of memory. Tried to allocate ", bytes, " bytes (NPU ", static_cast<int>(current_card), "; ",
        card.limit, " bytes total capacity; ", card.live, " bytes already allocated)");
    const size_t rounded = (sizeof(Header) + bytes + 63) / 64 * 64;
    auto* header = static_cast<Header*>(std::aligned_alloc(64, rounded));
    TORCH_CHECK(header != nullptr, "the host has no memory left for the simulated card");
    *header = {static_cast<int64_t>(bytes), current_card};
    card.live += static_cast<int64_t>(bytes);
    card.peak = std::max(card.peak, card.live);
    void* data = header + 1;
    std::memset(data, 0xFF, bytes);  // nobody may rely on what is in new memory
    return {data, data, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Allocator allocator;
REGISTER_ALLOCATOR(kDevice, &allocator);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kDevice;
  c10::DeviceType type() const override { return kDevice; }
  c10::Device getDevice() const override { return {kDevice, current_card}; }
  c10::Device exchangeDevice(c10::Device to) const override {
    const auto before = getDevice();
    setDevice(to);
    return before;
  }
  void setDevice(c10::Device to) const override {
    TORCH_CHECK(to.index() < cards_present, "invalid device npu:", to.index(), ", there are ", cards_present);
    if (to.index() >= 0) current_card = to.index();
  }
  void uncheckedSetDevice(c10::Device to) const noexcept override {
    if (to.index() >= 0) current_card = to.index();
  }
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(cards_present); }

  // Work is done when it is queued, so an event is the time of its recording.
  using Clock = std::chrono::steady_clock;
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) *event = new Clock::time_point;
    *static_cast<Clock::time_point*>(*event) = Clock::now();
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Clock::time_point*>(event);
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    const auto span = *static_cast<Clock::time_point*>(to) - *static_cast<Clock::time_point*>(from);
    return std::chrono::duration<double, std::milli>(span).count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

void grow(const c10::Storage& storage, size_t bytes) {
  auto data = allocator.allocate(bytes);
  if (storage.nbytes() > 0 && bytes > 0) std::memcpy(data.get(), storage.data(), std::min(bytes, storage.nbytes()));
  storage.set_data_ptr_noswap(std::move(data));
  storage.set_nbytes(bytes);
}

// Random numbers of a card are drawn by a generator of the host's inside it.
struct CardGenerator final : c10::GeneratorImpl {
  at::Generator inner = at::detail::createCPUGenerator();
  explicit CardGenerator(c10::DeviceIndex card)
      : c10::GeneratorImpl(c10::Device(kDevice, card), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { inner.set_offset(offset); }
  uint64_t get_offset() const override { return inner.get_offset(); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  CardGenerator* clone_impl() const override {
    auto* made = new CardGenerator(device().index());
    made->inner = inner.clone();
    return made;
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(cards_present); }
  c10::DeviceIndex getCurrentDevice() const override { return current_card; }
  void setCurrentDevice(c10::DeviceIndex card) const override { current_card = card; }
  at::Device getDeviceFromPtr(void* data) const override { return {kDevice, current_card}; }
  at::Generator getNewGenerator(c10::DeviceIndex card) const override {
    return at::make_generator<CardGenerator>(card < 0 ? current_card : card);
  }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override { grow(storage, bytes); }
};
Hooks hooks;

// ---- capture ------------------------------------------------------------------------------------------------------

using Graph = std::vector<std::function<void()>>;
std::map<int64_t, Graph> graphs;
Graph* capturing = nullptr;

void refuse_while_capturing(const char* what) {
  TORCH_CHECK(capturing == nullptr, what, " is not permitted while a graph is captured on the NPU");
}

struct Unrecorded {
  Graph* graph = std::exchange(capturing, nullptr);
  ~Unrecorded() { capturing = graph; }
};

std::vector<Tensor> tensors_of(const c10::IValue& value) {
  if (value.isTensor()) return {value.toTensor()};
  if (value.isTensorList()) return value.toTensorVector();
  return {};
}

// Capturing runs the work, so that later work finds sensible numbers, and takes it back at the end: only a replay counts.
std::map<const c10::StorageImpl*, std::pair<c10::Storage, std::string>> before_capture;

void about_to_write(const Tensor& tensor) {
  if (!tensor.defined()) return;
  const auto& storage = tensor.storage();
  const auto* data = static_cast<const char*>(storage.data());
  if (data != nullptr)
    before_capture.try_emplace(storage.unsafeGetStorageImpl(), storage, std::string(data, storage.nbytes()));
}

void take_back() {
  for (const auto& [impl, kept] : before_capture)
    std::memcpy(kept.first.mutable_data(), kept.second.data(), kept.second.size());
  before_capture.clear();
}

// The same memory as a CPU tensor.
Tensor host(const Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  const auto& storage = tensor.storage();
  const auto count = static_cast<int64_t>(storage.nbytes() / tensor.element_size());
  auto whole = at::from_blob(const_cast<void*>(storage.data()), {count}, tensor.options().device(at::kCPU));
  return whole.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset());
}

// ---- operators ----------------------------------------------------------------------------------------------------

std::unordered_set<std::string> listed;
std::map<std::string, int64_t> calls;

// Advanced indexing moves its indices to the card by itself.
const std::unordered_set<std::string> takes_host_tensors = {"index.Tensor", "index_put_", "_index_put_impl_", "index_put"};

void check_same_device(const std::string& name, const torch::jit::Stack& stack, size_t arguments) {
  if (takes_host_tensors.count(name)) return;
  for (size_t i = stack.size() - arguments; i < stack.size(); ++i)
    for (const auto& tensor : tensors_of(stack[i]))
      TORCH_CHECK(
          !tensor.defined() || tensor.device().type() == kDevice || tensor.dim() == 0,
          "Expected all tensors to be on the same device, but ", name, " got one on npu and one on ", tensor.device());
}

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string space(schema.getNamespace().value_or(""));
  std::string name = schema.name().substr(schema.name().rfind(':') + 1);
  if (!schema.overload_name().empty()) name += "." + schema.overload_name();
  calls[name] += 1;
  TORCH_CHECK_NOT_IMPLEMENTED(space != "npu", schema.name(), ": its semantics are not emulated on the simulated NPU");
  TORCH_CHECK_NOT_IMPLEMENTED(
      space == "aten" && listed.count(name), schema.name(), schema.overload_name().empty() ? "" : ".",
      schema.overload_name(), ": torch_npu registers no NPU kernel for this operator");
  const size_t arguments = schema.arguments().size();
  check_same_device(name, *stack, arguments);
  for (size_t i = stack->size() - arguments; i < stack->size(); ++i)
    if ((*stack)[i].isGenerator() && (*stack)[i].toGenerator().device().type() == kDevice)
      (*stack)[i] = static_cast<CardGenerator*>((*stack)[i].toGenerator().unsafeGetGeneratorImpl())->inner;
  Graph* const graph = capturing;
  if (graph == nullptr) {
    at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
    return;
  }
  const torch::jit::Stack inputs(stack->end() - static_cast<int64_t>(arguments), stack->end());
  {
    const Unrecorded unrecorded;  // the fallback itself copies to the host and back
    for (size_t i = 0; i < arguments; ++i) {
      const auto* alias = schema.arguments()[i].alias_info();
      if (alias != nullptr && alias->isWrite())
        for (const auto& tensor : tensors_of(inputs[i])) about_to_write(tensor);
    }
    at::native::cpu_fallback(op, stack, true);
  }
  const torch::jit::Stack outputs(stack->end() - static_cast<int64_t>(schema.returns().size()), stack->end());
  graph->push_back([op, inputs, outputs] {
    torch::jit::Stack again(inputs);
    at::native::cpu_fallback(op, &again, true);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto fresh = tensors_of(again[i]), held = tensors_of(outputs[i]);
      for (size_t j = 0; j < held.size(); ++j)
        if (held[j].defined() && !held[j].is_same(fresh[j])) host(held[j]).copy_(host(fresh[j]));
    }
  });
}

// Placement, copies and views, which are implemented below or made of what is.
const std::unordered_set<std::string> not_computed = {
    "copy_", "_to_copy", "clone", "contiguous", "resize_as_", "set_", "set_.source_Tensor", "is_set_to", "is_pinned",
    "_pin_memory", "record_stream", "empty_like", "new_empty_strided", "as_strided_", "_lazy_clone"};

// Register what torch_npu registers: an operator with a kernel of its own is not taken apart by torch.
void give_kernel(const std::string& name) {
  listed.insert(name);
  const auto dot = name.find('.');
  const auto op = c10::Dispatcher::singleton().findSchema(
      {"aten::" + name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1)});
  if (!op.has_value() || not_computed.count(name) || op->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) return;
  bool takes_tensors = false;
  for (const auto& argument : op->schema().arguments())
    takes_tensors |= argument.type()->str().find("Tensor") != std::string::npos;
  for (const auto& result : op->schema().returns())
    if (result.alias_info() != nullptr && !result.alias_info()->isWrite()) return;  // a view
  static torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  if (takes_tensors) library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

c10::DeviceGuard on(std::optional<at::Device> device) {
  return c10::DeviceGuard(device.has_value() && device->has_index() ? *device : c10::Device(kDevice, current_card));
}

Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const auto guard = on(device);
  return at::detail::empty_generic(
      size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(type), format);
}

Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> type, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>) {
  const auto guard = on(device);
  return at::detail::empty_strided_generic(
      size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(type));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (from.device().is_cpu() || to.device().is_cpu()) refuse_while_capturing("a copy between host and device");
  if (capturing != nullptr) {
    about_to_write(to);
    capturing->push_back([from, to] { host(to).copy_(host(from)); });
  }
  host(to).copy_(host(from));
  return to;
}

const Tensor& resize(const Tensor& tensor, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  if (tensor.sizes() == size) return tensor;
  refuse_while_capturing("a new size of a tensor");
  auto* impl = tensor.unsafeGetTensorImpl();
  const auto needed = static_cast<size_t>(
      (c10::multiply_integers(size) + tensor.storage_offset()) * static_cast<int64_t>(tensor.element_size()));
  if (tensor.storage().nbytes() < needed) {
    const auto guard = on(tensor.device());
    grow(tensor.storage(), needed);
  }
  impl->set_sizes_contiguous(size);
  if (format.has_value()) impl->empty_tensor_restride(*format);
  return tensor;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  resize(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar local_scalar(const Tensor& tensor) {
  refuse_while_capturing("waiting for a number");
  return host(tensor).item();
}

Tensor as_strided(const Tensor& t, at::IntArrayRef size, at::IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(t, size, stride, offset);
}

Tensor view(const Tensor& tensor, c10::SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

Tensor reshape_alias(const Tensor& tensor, at::IntArrayRef size, at::IntArrayRef stride) {
  return at::native::_reshape_alias(tensor, size, stride);
}

Tensor unfold(const Tensor& tensor, int64_t dim, int64_t size, int64_t step) {
  return at::native::unfold(tensor, dim, size, step);
}

Tensor& set_storage(Tensor& t, at::Storage storage, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  return at::native::set_storage_cpu_(t, std::move(storage), offset, size, stride);
}

Tensor& set_whole_storage(Tensor& t, at::Storage storage) {
  const auto count = static_cast<int64_t>(storage.nbytes() / t.element_size());
  return at::native::set_storage_cpu_(t, std::move(storage), 0, {count}, {1});
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("resize_", &resize);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("unfold", &unfold);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
}

std::string text;  // what the last call that returns words or an error returned

template <class Work>
const char* guarded(Work work) {  // an exception must not cross into ctypes
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

}  // namespace

// ---- for Python, through ctypes -----------------------------------------------------------------------------------

extern "C" {

void npu_init(int cards_wanted) {
  cards_present = std::min(cards_wanted, kCards);
  at::RegisterPrivateUse1HooksInterface(&hooks);
}
const char* npu_list(const char* name) {
  return guarded([&] { give_kernel(name); });
}
void npu_set_limit(int card, int64_t bytes) { cards[card].limit = bytes; }
int64_t npu_live(int card) { return cards[card].live; }
int64_t npu_peak(int card) { return cards[card].peak; }
int64_t npu_limit(int card) { return cards[card].limit; }
void npu_reset_peak(int card) { cards[card].peak = cards[card].live; }
int npu_current() { return current_card; }
void npu_set_current(int card) { current_card = static_cast<c10::DeviceIndex>(card); }

const char* npu_calls() {
  text.clear();
  for (const auto& [name, count] : calls) text += name + " " + std::to_string(count) + "\n";
  return text.c_str();
}

void npu_capture_begin(int64_t graph) { capturing = &graphs[graph]; }
void npu_capture_end() {
  capturing = nullptr;
  take_back();
}
int npu_is_capturing() { return capturing != nullptr; }
// Work done by Python is recorded as a call back; while it runs, what it does is not recorded itself.
void npu_record(void (*work)()) {
  if (capturing != nullptr) capturing->push_back(work);
}
void* npu_pause() { return std::exchange(capturing, nullptr); }
void npu_resume(void* graph) { capturing = static_cast<Graph*>(graph); }
const char* npu_replay(int64_t graph) {
  return guarded([&] {
    for (const auto& work : graphs.at(graph)) work();
  });
}
void npu_drop(int64_t graph) { graphs.erase(graph); }
}
