// A device of its own on the host's memory, as strict about tensors of two devices as CUDA.
//
// Every operator runs the CPU's kernel on the same memory, so that a training on it gives the same bits as on
// the CPU; what CUDA would refuse, tensors of both devices in one operator, or one that is not deterministic
// where it is to be, is refused in CUDA's words, and each wait of the host for the device and each transfer
// between them is counted. Like MPS it can do without double precision.

#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using Sizes = c10::SymIntArrayRef;

const c10::Device device(c10::DeviceType::PrivateUse1, 0);
int64_t waits = 0, to_host = 0, to_device = 0;
bool has_double = true;

void refuse_double(at::ScalarType dtype) {
  TORCH_CHECK_TYPE(has_double || (dtype != at::kDouble && dtype != at::kComplexDouble),
                   "Cannot convert a tensor of this device to float64, which it does not support.");
}

// ---- memory: the host's, under the device's name

struct Memory final : c10::Allocator {
  static void free(void* kept) { delete static_cast<c10::DataPtr*>(kept); }
  c10::DataPtr allocate(size_t bytes) override {
    auto* kept = new c10::DataPtr(c10::GetCPUAllocator()->allocate(bytes));
    return {kept->get(), kept, &free, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
};
Memory memory;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &memory);

c10::DataPtr shared(const c10::Storage& storage, c10::Device where) {
  auto* kept = new c10::Storage(storage);
  return {const_cast<void*>(kept->data()), kept, [](void* gone) { delete static_cast<c10::Storage*>(gone); }, where};
}

Tensor over(c10::Storage storage, c10::DispatchKey key, const Tensor& like) {
  Tensor made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  made.unsafeGetTensorImpl()->set_storage_offset(like.storage_offset());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides());
  if (like.is_conj()) made._set_conj(true);
  if (like.is_neg()) made._set_neg(true);
  return made;
}

// The same memory as a tensor of the other side.
Tensor moved(const Tensor& tensor, c10::Device where, c10::DispatchKey key) {
  auto* allocator = where.is_cpu() ? c10::GetCPUAllocator() : static_cast<c10::Allocator*>(&memory);
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), shared(tensor.storage(), where), allocator, true);
  return over(std::move(storage), key, tensor);
}
Tensor host(const Tensor& tensor) { return moved(tensor, c10::Device(c10::kCPU), c10::DispatchKey::CPU); }
Tensor ours(const Tensor& tensor) {
  refuse_double(tensor.scalar_type());
  return moved(tensor, device, c10::DispatchKey::PrivateUse1);
}

void grow(c10::StorageImpl* storage, size_t bytes) {
  auto fresh = memory.allocate(bytes);
  std::memcpy(fresh.get(), storage->data(), std::min(bytes, storage->nbytes()));
  storage->set_data_ptr_noswap(std::move(fresh));
  storage->set_nbytes(bytes);
}

// ---- what torch asks of a device

struct Guard final : c10::impl::DeviceGuardImplInterface {
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::Stream only() const { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::DeviceType type() const override { return device.type(); }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return only(); }
  c10::Stream getNewStream(c10::Device, int) const override { return only(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return only(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isAvailable() const { return true; }  // of torch 2.6 no part of it
  bool isBuilt() const { return true; }
  void init() const override {}
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const auto generator = at::globalContext().defaultGenerator(c10::Device(c10::kCPU));
    return generator;
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    grow(storage.unsafeGetStorageImpl(), bytes);
  }
};
Hooks hooks;
const bool registered = (at::RegisterPrivateUse1HooksInterface(&hooks), true);

// ---- operators that every device has of its own

Tensor empty(Sizes size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  refuse_double(c10::dtype_or_default(dtype));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}
Tensor empty_strided(Sizes size, Sizes stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
  refuse_double(c10::dtype_or_default(dtype));
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}
Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  const bool from_here = self.device() == device, to_here = to.device() == device;
  to_device += to_here && !from_here;
  to_host += from_here && !to_here;
  (to_here ? host(to) : to).copy_(from_here ? host(self) : self);
  return to;
}
Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}
at::Scalar number(const Tensor& self) {
  ++waits;
  return host(self).item();
}
Tensor as_strided(const Tensor& self, Sizes size, Sizes stride, std::optional<c10::SymInt> offset) {
  const auto start = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), start);
}
Tensor view(const Tensor& self, Sizes size) { return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size)); }
Tensor reshape_alias(const Tensor& self, Sizes size, Sizes stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
Tensor unfold(const Tensor& self, int64_t dim, int64_t size, int64_t step) {
  return at::native::unfold(self, dim, size, step);
}
const Tensor& resize(const Tensor& self, Sizes size, std::optional<at::MemoryFormat>) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const size_t bytes = (c10::multiply_integers(sizes) + self.storage_offset()) * self.itemsize();
  if (bytes > self.storage().nbytes()) grow(self.storage().unsafeGetStorageImpl(), bytes);
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return self;
}
Tensor& set_storage(Tensor& self, at::Storage storage, c10::SymInt offset, Sizes size, Sizes stride) {
  return at::native::set_storage_cpu_(
      self, std::move(storage), offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
Tensor& set_whole_storage(Tensor& self, at::Storage storage) {
  const int64_t count = storage.nbytes() / self.itemsize();
  return at::native::set_storage_cpu_(self, std::move(storage), 0, {count}, {});
}
Tensor& set_tensor(Tensor& self, const Tensor& other) { return at::native::set_tensor_(self, other); }

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, Sizes stride,
                   Sizes padding, Sizes dilation, bool transposed, Sizes output_padding, c10::SymInt groups) {
  const bool biased = bias && bias->defined();
  TORCH_CHECK(input.device() == weight.device() && (!biased || bias->device() == device),
              "Input type and weight type should be the same: they are on two devices.");
  return ours(at::convolution_symint(host(input), host(weight), biased ? std::optional(host(*bias)) : std::nullopt,
                                     stride, padding, dilation, transposed, output_padding, groups));
}
std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& gradient, const Tensor& input,
                                                        const Tensor& weight, Sizes stride, Sizes padding,
                                                        Sizes dilation, bool transposed, Sizes output_padding,
                                                        c10::SymInt groups, std::array<bool, 3> wanted) {
  const std::vector<c10::SymInt> bias{transposed ? weight.sym_size(1) * groups : weight.sym_size(0)};
  auto [of_input, of_weight, of_bias] = at::convolution_backward_symint(
      host(gradient), host(input), host(weight), wanted[2] ? at::OptionalSymIntArrayRef(bias) : std::nullopt, stride,
      padding, dilation, transposed, output_padding, groups, wanted);
  const auto back = [](const Tensor& made) { return made.defined() ? ours(made) : made; };
  return {back(of_input), back(of_weight), back(of_bias)};
}

// ---- all others: the CPU's

// Indices may lie on the host, as with CUDA.
const std::set<std::string> indexing{"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
                                     "aten::_unsafe_index", "aten::_unsafe_index_put"};
// The host waits for the size of what they give.
const std::set<std::string> sized_by_values{"aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2",
                                            "aten::_unique", "aten::unique_dim", "aten::repeat_interleave"};

// Of these CUDA has no algorithm that gives the same numbers twice, as torch.use_deterministic_algorithms lists them.
const std::set<std::string> at_random{
    "aten::histc", "aten::kthvalue", "aten::put_", "aten::nll_loss2d_forward", "aten::_ctc_loss_backward",
    "aten::_adaptive_avg_pool2d_backward", "aten::_adaptive_avg_pool3d_backward", "aten::adaptive_max_pool2d_backward",
    "aten::avg_pool3d_backward", "aten::max_pool3d_with_indices_backward", "aten::max_unpool2d",
    "aten::grid_sampler_2d_backward", "aten::grid_sampler_3d_backward", "aten::upsample_linear1d_backward",
    "aten::upsample_bilinear2d_backward", "aten::upsample_bicubic2d_backward", "aten::upsample_trilinear3d_backward",
    "aten::reflection_pad1d_backward", "aten::reflection_pad2d_backward", "aten::replication_pad1d_backward",
    "aten::replication_pad2d_backward", "aten::replication_pad3d_backward"};

bool is_at_random(const std::string& name, const c10::FunctionSchema& schema, const torch::jit::Stack& stack) {
  const auto given = [&](size_t i) { return stack[stack.size() - schema.arguments().size() + i]; };
  if (name == "aten::median") return schema.returns().size() == 2;
  if (name == "aten::cumsum") return given(0).toTensor().is_floating_point();
  if (name == "aten::bincount") return given(1).isTensor() && given(1).toTensor().defined();
  return at_random.count(name) > 0;
}

void by_the_cpu(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const auto& name = schema.name();
  waits += sized_by_values.count(name);
  if (is_at_random(name, schema, *stack)) at::globalContext().alertNotDeterministic(name);
  bool here = false;
  const std::string* there = nullptr;
  std::vector<std::pair<Tensor, Tensor>> lent;
  const auto lend = [&](const Tensor& tensor, const std::string& argument) {
    if (!tensor.defined()) return tensor;
    if (tensor.device() == device) {
      here = true;
      lent.emplace_back(tensor, host(tensor));
      return lent.back().second;
    }
    if (tensor.is_cpu() && tensor.dim() > 0) there = &argument;
    return tensor;
  };
  const auto arguments = schema.arguments().size(), first = stack->size() - arguments;
  for (size_t i = 0; i < arguments; ++i) {
    auto& value = (*stack)[first + i];
    const auto& argument = schema.arguments()[i].name();
    if (value.isTensor()) {
      value = lend(value.toTensor(), argument);
    } else if (value.isTensorList()) {
      std::vector<Tensor> all;
      for (const Tensor& tensor : value.toTensorVector()) all.push_back(lend(tensor, argument));
      value = c10::List<Tensor>(all);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> all;
      for (std::optional<Tensor> tensor : value.toOptionalTensorList()) {
        if (tensor && tensor->defined() && !(tensor->is_cpu() && indexing.count(name))) {
          waits += tensor->scalar_type() == at::kBool;
          tensor = lend(*tensor, argument);
        }
        all.push_back(tensor);
      }
      value = all;
    } else if (value.isDevice() && value.toDevice() == device) {
      value = c10::Device(c10::kCPU);
    }
  }
  TORCH_CHECK(!(here && there), "Expected all tensors to be on the same device, but found at least two devices, ", device,
              " and cpu! (when checking argument for argument ", there ? *there : "", " in method ", name, ")");
  operation.callBoxed(stack);
  for (auto& [tensor, view] : lent) {  // one that was given for the result may have grown
    auto* storage = tensor.storage().unsafeGetStorageImpl();
    if (view.storage().data() != storage->data()) {
      storage->set_data_ptr_noswap(shared(view.storage(), device));
      storage->set_nbytes(view.storage().nbytes());
    }
    if (tensor.sizes() != view.sizes() || tensor.strides() != view.strides())
      tensor.unsafeGetTensorImpl()->set_sizes_and_strides(view.sizes(), view.strides());
  }
  const auto back = [&](const Tensor& made) {
    if (!made.defined() || !made.is_cpu()) return made;
    for (auto& [tensor, view] : lent)
      if (view.is_same(made)) return tensor;
    for (auto& [tensor, view] : lent)
      if (made.storage().data() && made.storage().data() == view.storage().data())
        return over(tensor.storage(), c10::DispatchKey::PrivateUse1, made);
    return ours(made);
  };
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = back(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<Tensor> all;
      for (const Tensor& tensor : value.toTensorVector()) all.push_back(back(tensor));
      value = c10::List<Tensor>(all);
    }
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &number);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("unfold", &unfold);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

std::vector<int64_t> counted() { return {waits, to_host, to_device}; }
void without_double() { has_double = false; }
TORCH_LIBRARY(host_device, m) {
  m.def("counted", &counted);
  m.def("without_double", &without_double);
}

}  // namespace
