// Means over windows of features [B, H, W, C] that do not overlap.

#include <algorithm>

#include "parallel.h"
#include "vector.h"
#include "xla/ffi/api/ffi.h"

namespace jaxocr {
namespace {

namespace ffi = xla::ffi;
using Features = ffi::Buffer<ffi::F32, 4>;

ffi::Error pool(ffi::ThreadPool threads, Features x, ffi::Result<Features> y) {
  auto from = x.dimensions(), to = y->dimensions();
  int64_t width = from[2], channels = from[3], places = to[2];
  int64_t rows = from[1] / to[1], columns = width / places;
  const float* seen = x.typed_data();
  float* means = y->typed_data();
  float share = 1.0f / (rows * columns);
  parallel(threads, from[0] * to[1], [=](int64_t row) {
    by_width(channels, [&](auto io) {
      for (int64_t place = 0; place < places; ++place) {
        for (int64_t start = 0; start < channels; start += kLanes) {
          // The last vector may overlap its neighbour, and says the same.
          int64_t c = std::max<int64_t>(0, std::min(start, channels - kLanes));
          Vec sum = {};
          for (int64_t i = 0; i < rows; ++i) {
            for (int64_t j = 0; j < columns; ++j) {
              int64_t at = (row * rows + i) * width + place * columns + j;
              sum += io.load(seen + at * channels + c);
            }
          }
          io.store(means + (row * places + place) * channels + c, sum * share);
        }
      }
    });
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxocr

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxocr_pool, jaxocr::pool,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<jaxocr::Features>()
                                  .Ret<jaxocr::Features>());
