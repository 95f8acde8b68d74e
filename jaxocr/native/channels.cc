// What goes through features one place at a time, with sums over all places:
// BatchNorm with what bends its result, RPReLU, sums.

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "vector.h"
#include "xla/ffi/api/ffi.h"

namespace jaxocr {
namespace {

namespace ffi = xla::ffi;

constexpr int kParts = 16;
constexpr int64_t kTogether = 64;  // Rows that stay in the first cache.

// Calls each(offset, channel, io, sums) for all vectors of x [rows][C] and
// adds up S sums of each channel, totals [S][C].
//
// Rows are in parts whose number does not depend on the threads, so neither
// does the order of sums. The last vector of a row may overlap its neighbour:
// what is stored is stored twice, what is summed is not.
template <int S, typename F>
void rows_of(ffi::ThreadPool& pool, int64_t rows, int channels, float* totals,
             F each) {
  Floats sums(int64_t(kParts) * S * channels);
  parallel(pool, kParts, [&](int64_t part) {
    float* mine = sums.data() + part * S * channels;
    int64_t end = rows * (part + 1) / kParts;
    by_width(channels, [&](auto io) {
      for (int64_t row = rows * part / kParts; row < end; row += kTogether) {
        int64_t stop = std::min(end, row + kTogether);
        for (int start = 0; start < channels; start += kLanes) {
          int channel = std::max(0, std::min(start, channels - kLanes));
          Vec all[S + 1] = {};
          for (int64_t r = row; r < stop; ++r) {
            each(r * channels + channel, channel, io, all);
          }
          for (int s = 0; s < S; ++s) {
            for (int c = start - channel; c < io.some; ++c) {
              mine[s * channels + channel + c] += all[s][c];
            }
          }
        }
      }
    });
  });
  for (int part = 0; part < kParts && S; ++part) {
    const float* one = sums.data() + int64_t(part) * S * channels;
    for (int i = 0; i < S * channels; ++i) {
      totals[i] = part ? totals[i] + one[i] : one[i];
    }
  }
}

// BatchNorm (Ioffe and Szegedy 2015): z = (x - mean) * gain + bias.
struct Norm {
  int64_t rows;
  int channels;
  float epsilon;
  const float *x, *scale, *bias, *mean, *variance;

  Floats gain() const {
    Floats all(channels);
    for (int c = 0; c < channels; ++c) all[c] = scale[c] * slope(c);
    return all;
  }
  float slope(int c) const { return 1 / std::sqrt(variance[c] + epsilon); }
};

void moments(ffi::ThreadPool& pool, int64_t rows, int channels, const float* x,
             float* mean, float* variance) {
  Floats totals(2 * channels);
  rows_of<2>(pool, rows, channels, totals.data(),
             [=](int64_t at, int, auto io, Vec* sums) {
               Vec seen = io.load(x + at);
               sums[0] += seen;
               sums[1] += seen * seen;
             });
  for (int c = 0; c < channels; ++c) {
    mean[c] = totals[c] / rows;
    // In this order NaN comes through.
    variance[c] =
        std::max(totals[channels + c] / rows - mean[c] * mean[c], 0.0f);
  }
}

// What BatchNorm gives before anything is bent.
template <typename IO>
Vec normalised(const Norm& n, const float* gain, IO io, int64_t at, int c) {
  return (io.load(n.x + at) - io.load(n.mean + c)) * io.load(gain + c) +
         io.load(n.bias + c);
}

// dx from the sums of dz and of dz * (x - mean), [2][C], which become dbias and
// dscale. heard(at, c, io) gives dz.
template <typename F>
void norm_gradient(ffi::ThreadPool& pool, const Norm& n, float* sums, float* dx,
                   F heard) {
  Floats gain = n.gain(), of_one(n.channels), of_x(n.channels);
  for (int c = 0; c < n.channels; ++c) {
    float& dscale = sums[n.channels + c];
    dscale *= n.slope(c);
    of_one[c] = sums[c] / n.rows;
    of_x[c] = dscale * n.slope(c) / n.rows;
  }
  rows_of<0>(
      pool, n.rows, n.channels, nullptr, [&](int64_t at, int c, auto io, Vec*) {
        Vec centred = io.load(n.x + at) - io.load(n.mean + c);
        Vec common = io.load(&of_one[c]) + centred * io.load(&of_x[c]);
        io.store(dx + at, (heard(at, c, io) - common) * io.load(&gain[c]));
      });
}

// With or without ReLU behind it, which lets NaN through.
template <bool relu>
void norm(ffi::ThreadPool& pool, const Norm& n, float* y) {
  Floats gain = n.gain();
  rows_of<0>(pool, n.rows, n.channels, nullptr,
             [&](int64_t at, int c, auto io, Vec*) {
               Vec z = normalised(n, gain.data(), io, at, c);
               io.store(y + at, relu ? (z < 0 ? Vec{} : z) : z);
             });
}

template <bool relu>
void norm_backward(ffi::ThreadPool& pool, const Norm& n, const float* cotangent,
                   float* dx, float* sums) {
  Floats gain = n.gain();
  auto heard = [&](int64_t at, int c, auto io) {
    Vec dy = io.load(cotangent + at);
    if constexpr (!relu) return dy;
    return normalised(n, gain.data(), io, at, c) <= 0 ? Vec{} : dy;
  };
  rows_of<2>(pool, n.rows, n.channels, sums,
             [&](int64_t at, int c, auto io, Vec* all) {
               Vec dz = heard(at, c, io);
               all[0] += dz;
               all[1] += dz * (io.load(n.x + at) - io.load(n.mean + c));
             });
  norm_gradient(pool, n, sums, dx, heard);
}

// RPReLU (Liu et al. 2020, eq. 4) of what a shortcut adds to: z = norm +
// shortcut + before, bent, + after. Without a norm, of the shortcut alone.
struct Bend {
  const float *shortcut, *before, *slope, *after;
};

void norm_rprelu(ffi::ThreadPool& pool, const Norm& n, Bend bend, float* y) {
  Floats gain = n.gain();
  rows_of<0>(pool, n.rows, n.channels, nullptr,
             [&](int64_t at, int c, auto io, Vec*) {
               Vec z = normalised(n, gain.data(), io, at, c) +
                       io.load(bend.shortcut + at) + io.load(bend.before + c);
               Vec bent = z > 0 ? z : z * io.load(bend.slope + c);
               io.store(y + at, bent + io.load(bend.after + c));
             });
}

// `sums` are those of the bias (and of before), of the scale, of the slope and
// of after, [4][C].
void norm_rprelu_backward(ffi::ThreadPool& pool, const Norm& n, Bend bend,
                          const float* cotangent, float* dx, float* dshortcut,
                          float* sums) {
  Floats gain = n.gain();
  rows_of<4>(pool, n.rows, n.channels, sums,
             [&](int64_t at, int c, auto io, Vec* all) {
               Vec z = normalised(n, gain.data(), io, at, c) +
                       io.load(bend.shortcut + at) + io.load(bend.before + c);
               Vec dy = io.load(cotangent + at);
               Vec dz = z > 0 ? dy : dy * io.load(bend.slope + c);
               io.store(dshortcut + at, dz);
               all[0] += dz;
               all[1] += dz * (io.load(n.x + at) - io.load(n.mean + c));
               all[2] += z > 0 ? Vec{} : dy * z;
               all[3] += dy;
             });
  norm_gradient(pool, n, sums, dx, [&](int64_t at, int, auto io) {
    return io.load(dshortcut + at);
  });
}

void rprelu(ffi::ThreadPool& pool, int64_t rows, int channels, Bend bend,
            float* y) {
  rows_of<0>(pool, rows, channels, nullptr,
             [=](int64_t at, int c, auto io, Vec*) {
               Vec z = io.load(bend.shortcut + at) + io.load(bend.before + c);
               Vec bent = z > 0 ? z : z * io.load(bend.slope + c);
               io.store(y + at, bent + io.load(bend.after + c));
             });
}

// `sums` are those of before, slope and after, [3][C].
void rprelu_backward(ffi::ThreadPool& pool, int64_t rows, int channels,
                     Bend bend, const float* cotangent, float* dx,
                     float* sums) {
  rows_of<3>(pool, rows, channels, sums,
             [=](int64_t at, int c, auto io, Vec* all) {
               Vec z = io.load(bend.shortcut + at) + io.load(bend.before + c);
               Vec dy = io.load(cotangent + at);
               Vec dz = z > 0 ? dy : dy * io.load(bend.slope + c);
               io.store(dx + at, dz);
               all[0] += dz;
               all[1] += z > 0 ? Vec{} : dy * z;
               all[2] += dy;
             });
}

using Any = ffi::Buffer<ffi::F32>;
using Row = ffi::Buffer<ffi::F32, 1>;
using Rows = ffi::Buffer<ffi::F32, 2>;

Norm norm_of(Any x, Row scale, Row bias, const float* mean,
             const float* variance, float epsilon) {
  int channels = x.dimensions().back();
  return {int64_t(x.element_count()) / channels,
          channels,
          epsilon,
          x.typed_data(),
          scale.typed_data(),
          bias.typed_data(),
          mean,
          variance};
}

Norm norm_of(ffi::ThreadPool& pool, Any x, Row scale, Row bias,
             ffi::Result<Row> mean, ffi::Result<Row> variance, float epsilon) {
  Norm n = norm_of(x, scale, bias, mean->typed_data(), variance->typed_data(),
                   epsilon);
  moments(pool, n.rows, n.channels, n.x, mean->typed_data(),
          variance->typed_data());
  return n;
}

namespace calls {

ffi::Error norm(ffi::ThreadPool pool, Any x, Row scale, Row bias,
                ffi::Result<Any> y, ffi::Result<Row> mean,
                ffi::Result<Row> variance, float epsilon, bool relu) {
  Norm n = norm_of(pool, x, scale, bias, mean, variance, epsilon);
  relu ? jaxocr::norm<true>(pool, n, y->typed_data())
       : jaxocr::norm<false>(pool, n, y->typed_data());
  return ffi::Error::Success();
}

ffi::Error norm_gradient(ffi::ThreadPool pool, Any x, Row scale, Row bias,
                         Row mean, Row variance, Any cotangent,
                         ffi::Result<Any> dx, ffi::Result<Rows> sums,
                         float epsilon, bool relu) {
  Norm n = norm_of(x, scale, bias, mean.typed_data(), variance.typed_data(),
                   epsilon);
  auto backward = relu ? norm_backward<true> : norm_backward<false>;
  backward(pool, n, cotangent.typed_data(), dx->typed_data(),
           sums->typed_data());
  return ffi::Error::Success();
}

Bend bend_of(Any shortcut, Row before, Row slope, const float* after) {
  return {shortcut.typed_data(), before.typed_data(), slope.typed_data(),
          after};
}

ffi::Error norm_rprelu(ffi::ThreadPool pool, Any x, Row scale, Row bias,
                       Any shortcut, Row before, Row slope, Row after,
                       ffi::Result<Any> y, ffi::Result<Row> mean,
                       ffi::Result<Row> variance, float epsilon) {
  Norm n = norm_of(pool, x, scale, bias, mean, variance, epsilon);
  jaxocr::norm_rprelu(pool, n,
                      bend_of(shortcut, before, slope, after.typed_data()),
                      y->typed_data());
  return ffi::Error::Success();
}

ffi::Error norm_rprelu_gradient(ffi::ThreadPool pool, Any x, Row scale,
                                Row bias, Any shortcut, Row before, Row slope,
                                Row mean, Row variance, Any cotangent,
                                ffi::Result<Any> dx, ffi::Result<Any> dshortcut,
                                ffi::Result<Rows> sums, float epsilon) {
  Norm n = norm_of(x, scale, bias, mean.typed_data(), variance.typed_data(),
                   epsilon);
  jaxocr::norm_rprelu_backward(pool, n,
                               bend_of(shortcut, before, slope, nullptr),
                               cotangent.typed_data(), dx->typed_data(),
                               dshortcut->typed_data(), sums->typed_data());
  return ffi::Error::Success();
}

ffi::Error rprelu(ffi::ThreadPool pool, Any x, Row before, Row slope, Row after,
                  ffi::Result<Any> y) {
  int channels = x.dimensions().back();
  jaxocr::rprelu(pool, x.element_count() / channels, channels,
                 bend_of(x, before, slope, after.typed_data()),
                 y->typed_data());
  return ffi::Error::Success();
}

ffi::Error rprelu_gradient(ffi::ThreadPool pool, Any x, Row before, Row slope,
                           Any cotangent, ffi::Result<Any> dx,
                           ffi::Result<Rows> sums) {
  int channels = x.dimensions().back();
  jaxocr::rprelu_backward(pool, x.element_count() / channels, channels,
                          bend_of(x, before, slope, nullptr),
                          cotangent.typed_data(), dx->typed_data(),
                          sums->typed_data());
  return ffi::Error::Success();
}

ffi::Error sums(ffi::ThreadPool pool, Any x, ffi::Result<Row> totals) {
  int channels = x.dimensions().back();
  const float* from = x.typed_data();
  rows_of<1>(pool, x.element_count() / channels, channels, totals->typed_data(),
             [=](int64_t at, int, auto io, Vec* all) {
               all[0] += io.load(from + at);
             });
  return ffi::Error::Success();
}

}  // namespace calls
}  // namespace
}  // namespace jaxocr

#define BIND(handler, ARGUMENTS)                \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                \
      jaxocr_##handler, jaxocr::calls::handler, \
      xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>() ARGUMENTS)
#define ANY .Arg<jaxocr::Any>()
#define ROW .Arg<jaxocr::Row>()
#define TO_ANY .Ret<jaxocr::Any>()
#define TO_ROW .Ret<jaxocr::Row>()
#define TO_ROWS .Ret<jaxocr::Rows>()
#define EPSILON .Attr<float>("epsilon")
#define RELU .Attr<bool>("relu")

BIND(norm, ANY ROW ROW TO_ANY TO_ROW TO_ROW EPSILON RELU);
BIND(norm_gradient, ANY ROW ROW ROW ROW ANY TO_ANY TO_ROWS EPSILON RELU);
BIND(norm_rprelu, ANY ROW ROW ANY ROW ROW ROW TO_ANY TO_ROW TO_ROW EPSILON);
BIND(norm_rprelu_gradient,
     ANY ROW ROW ANY ROW ROW ROW ROW ANY TO_ANY TO_ANY TO_ROWS EPSILON);
BIND(rprelu, ANY ROW ROW ROW TO_ANY);
BIND(rprelu_gradient, ANY ROW ROW ANY TO_ANY TO_ROWS);
BIND(sums, ANY TO_ROW);
