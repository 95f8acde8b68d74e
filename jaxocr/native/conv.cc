// Square convolutions over features [B, H, W, C], and their gradients.
//
// Rows of features are read where they lie, once they have borders.

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "tiles.h"
#include "xla/ffi/api/ffi.h"

namespace jaxocr {
namespace {

namespace ffi = xla::ffi;

struct Shape {
  int batch, height, width, inputs, outputs, size, rows, columns;  // strides
  int high() const { return (height + rows - 1) / rows; }
  int wide() const { return (width + columns - 1) / columns; }
  int before() const { return (size - 1) / 2; }
};

// Rows [B * H] of `width` places with `before` and `after` zero places around,
// `minus` taken from what was there; where that changes nothing, no copy.
class Bordered {
 public:
  Bordered(ffi::ThreadPool& pool, const float* x, int64_t rows, int width,
           int channels, int before, int after, float minus)
      : row_(int64_t(before + width + after) * channels), all_(x) {
    if (before + after == 0 && minus == 0) return;
    copy_.resize(rows * row_);
    int64_t parts = std::min<int64_t>(rows, 16);
    parallel(pool, parts, [&](int64_t part) {
      for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts;
           ++r) {
        float* to = &copy_[r * row_ + int64_t(before) * channels];
        const float* from = x + r * width * channels;
        for (int64_t i = 0; i < int64_t(width) * channels; ++i) {
          to[i] = from[i] - minus;
        }
      }
    });
    all_ = copy_.data();
  }
  const float* at(int64_t row, int64_t offset) const {
    return all_ + row * row_ + offset;
  }

 private:
  int64_t row_;
  Floats copy_;
  const float* all_;
};

// y = conv(x - pad, kernel) with zeros around, + pad * sum of the kernel.
void convolve(ffi::ThreadPool& pool, Shape s, float pad, const float* x,
              const float* kernel, float* y) {
  int taps = s.size * s.size;
  Blocks blocks(s.outputs);
  auto weights = packed(kernel, taps, s.inputs, s.outputs, false);
  Floats start(blocks.vectors * kLanes);
  if (pad != 0) {
    for (int i = 0; i < taps * s.inputs; ++i) {
      for (int o = 0; o < s.outputs; ++o) {
        start[o] += pad * kernel[int64_t(i) * s.outputs + o];
      }
    }
  }
  Bordered in(pool, x, int64_t(s.batch) * s.height, s.width, s.inputs,
              s.before(), s.size - 1, pad);
  int high = s.high(), wide = s.wide();
  parallel(pool, int64_t(s.batch) * high, [&](int64_t i) {
    int b = i / high, row = i % high;
    std::vector<Tap> list;
    for (int block = 0, at = 0; block < blocks.count; ++block) {
      int vectors = blocks.wide(block), first = at;
      at += vectors;
      for (int place = 0; place < wide; place += kRows) {
        list.clear();
        for (int t = 0; t < taps; ++t) {
          int from = row * s.rows + t / s.size - s.before();
          if (from < 0 || from >= s.height) continue;
          list.push_back(
              {in.at(int64_t(b) * s.height + from,
                     int64_t(place * s.columns + t % s.size) * s.inputs),
               &weights[(int64_t(first) * taps + int64_t(t) * vectors) *
                        s.inputs * kLanes]});
        }
        float* out = y +
                     ((int64_t(b) * high + row) * wide + place) * s.outputs +
                     first * kLanes;
        Vec begin[kWide];
        for (int n = 0; n < vectors; ++n)
          begin[n] = load(&start[(first + n) * kLanes]);
        with_constant<kRows>(std::min(kRows, wide - place), [&](auto m) {
          with_constant<kWide>(vectors, [&](auto n) {
            tile<m.value, n.value>(list.data(), list.size(), s.inputs,
                                   int64_t(s.columns) * s.inputs, begin, out,
                                   s.outputs, s.outputs - first * kLanes);
          });
        });
      }
    }
  });
}

// Gradient with respect to x [B, H, W, C_in] of cotangent [B, H', W', C_out].
void features_gradient(ffi::ThreadPool& pool, Shape s, const float* cotangent,
                       const float* kernel, float* dx) {
  int taps = s.size * s.size, high = s.high(), wide = s.wide();
  Blocks blocks(s.inputs);
  auto weights = packed(kernel, taps, s.outputs, s.inputs, true);
  int border = s.size - 1;
  Bordered in(pool, cotangent, int64_t(s.batch) * high, wide, s.outputs, border,
              border, 0);
  const Vec zeros[kWide] = {};
  parallel(pool, int64_t(s.batch) * s.height, [&](int64_t i) {
    int b = i / s.height, row = i % s.height;
    std::vector<Tap> list;
    for (int block = 0, first = 0; block < blocks.count; ++block) {
      int vectors = blocks.wide(block);
      // Places of one phase of the column stride hear the same taps.
      for (int phase = 0; phase < s.columns; ++phase) {
        int places = (s.width - phase + s.columns - 1) / s.columns;
        for (int place = 0; place < places; place += kRows) {
          list.clear();
          for (int t = 0; t < taps; ++t) {
            int down = row + s.before() - t / s.size;
            int right = phase + s.before() - t % s.size;
            if (down < 0 || down % s.rows || down / s.rows >= high) continue;
            if ((right + s.size * s.columns) % s.columns) continue;
            int from = (right + s.size * s.columns) / s.columns - s.size;
            list.push_back(
                {in.at(int64_t(b) * high + down / s.rows,
                       int64_t(border + place + from) * s.outputs),
                 &weights[(int64_t(first) * taps + int64_t(t) * vectors) *
                          s.outputs * kLanes]});
          }
          float* out = dx +
                       ((int64_t(b) * s.height + row) * s.width + phase +
                        int64_t(place) * s.columns) *
                           s.inputs +
                       first * kLanes;
          with_constant<kRows>(std::min(kRows, places - place), [&](auto m) {
            with_constant<kWide>(vectors, [&](auto n) {
              tile<m.value, n.value>(
                  list.data(), list.size(), s.outputs, s.outputs, zeros, out,
                  int64_t(s.columns) * s.inputs, s.inputs - first * kLanes);
            });
          });
        }
      }
      first += vectors;
    }
  });
}

// Gradient with respect to the kernel [k, k, C_in, C_out].
//
// Each task has some input channels and all places: so nothing is summed over
// tasks, and the result does not depend on how many threads there are.
void kernel_gradient(ffi::ThreadPool& pool, Shape s, float pad, const float* x,
                     const float* cotangent, float* dkernel) {
  int taps = s.size * s.size, high = s.high(), wide = s.wide();
  Blocks blocks(s.outputs);
  int64_t row = int64_t(blocks.vectors) * kLanes;  // Of sums.
  Bordered in(pool, x, int64_t(s.batch) * s.height, s.width, s.inputs,
              s.before(), s.size - 1, pad);
  // A row of cotangents may be read a vector beyond its end.
  Floats copied;
  if (s.outputs % kLanes) {
    copied.assign(cotangent,
                  cotangent + int64_t(s.batch) * high * wide * s.outputs);
    copied.resize(copied.size() + kLanes);
    cotangent = copied.data();
  }
  int groups = (s.inputs + kRows - 1) / kRows;
  parallel(pool, groups, [&](int64_t group) {
    int channel = group * kRows, some = std::min(kRows, s.inputs - channel);
    Floats sums(int64_t(taps) * kRows * row);
    for (int i = 0; i < s.batch * high; ++i) {
      int b = i / high, at = i % high;
      for (int t = 0; t < taps; ++t) {
        int from = at * s.rows + t / s.size - s.before();
        if (from < 0 || from >= s.height) continue;
        const float* features = in.at(int64_t(b) * s.height + from,
                                      int64_t(t % s.size) * s.inputs + channel);
        for (int block = 0; block < blocks.count; ++block) {
          int first = blocks.first(block) * kLanes;
          with_constant<kRows>(some, [&](auto m) {
            with_constant<kWide>(blocks.wide(block), [&](auto n) {
              row_gradient<m.value, n.value>(
                  features, int64_t(s.columns) * s.inputs,
                  cotangent + int64_t(i) * wide * s.outputs + first, s.outputs,
                  wide, &sums[int64_t(t) * kRows * row + first], row);
            });
          });
        }
      }
    }
    for (int t = 0; t < taps; ++t) {
      for (int m = 0; m < some; ++m) {
        std::memcpy(dkernel + (int64_t(t) * s.inputs + channel + m) * s.outputs,
                    &sums[(int64_t(t) * kRows + m) * row],
                    s.outputs * sizeof(float));
      }
    }
  });
  if (pad != 0) {
    Floats heard(s.outputs);
    for (int64_t i = 0; i < int64_t(s.batch) * high * wide; ++i) {
      for (int o = 0; o < s.outputs; ++o)
        heard[o] += cotangent[i * s.outputs + o];
    }
    for (int64_t i = 0; i < int64_t(taps) * s.inputs; ++i) {
      for (int o = 0; o < s.outputs; ++o) {
        dkernel[i * s.outputs + o] += pad * heard[o];
      }
    }
  }
}

using Features = ffi::Buffer<ffi::F32, 4>;

Shape shape(ffi::Span<const int64_t> x, ffi::Span<const int64_t> kernel,
            int64_t rows, int64_t columns) {
  return {int(x[0]),      int(x[1]),      int(x[2]), int(x[3]),
          int(kernel[3]), int(kernel[0]), int(rows), int(columns)};
}

ffi::Error conv(ffi::ThreadPool pool, Features x, Features kernel,
                ffi::Result<Features> y, int64_t rows, int64_t columns,
                float pad) {
  convolve(pool, shape(x.dimensions(), kernel.dimensions(), rows, columns), pad,
           x.typed_data(), kernel.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

ffi::Error conv_dx(ffi::ThreadPool pool, Features kernel, Features cotangent,
                   ffi::Result<Features> dx, int64_t rows, int64_t columns) {
  Shape s = shape(dx->dimensions(), kernel.dimensions(), rows, columns);
  features_gradient(pool, s, cotangent.typed_data(), kernel.typed_data(),
                    dx->typed_data());
  return ffi::Error::Success();
}

ffi::Error conv_dkernel(ffi::ThreadPool pool, Features x, Features cotangent,
                        ffi::Result<Features> dkernel, int64_t rows,
                        int64_t columns, float pad) {
  Shape s = shape(x.dimensions(), dkernel->dimensions(), rows, columns);
  kernel_gradient(pool, s, pad, x.typed_data(), cotangent.typed_data(),
                  dkernel->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxocr

#define BIND(handler)                                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxocr_##handler, jaxocr::handler, \
                                xla::ffi::Ffi::Bind()              \
                                    .Ctx<xla::ffi::ThreadPool>()   \
                                    .Arg<jaxocr::Features>()       \
                                    .Arg<jaxocr::Features>()       \
                                    .Ret<jaxocr::Features>()       \
                                    .Attr<int64_t>("rows")         \
                                    .Attr<int64_t>("columns") MORE)
#define MORE
BIND(conv_dx);
#undef MORE
#define MORE .Attr<float>("pad")
BIND(conv);
BIND(conv_dkernel);
