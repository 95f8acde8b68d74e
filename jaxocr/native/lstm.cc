// The recurrent part of a bidirectional LSTM, and its gradients.
//
// Lines of a batch do not depend on each other, so a task takes some lines of
// one direction through all frames.

#include <algorithm>
#include <vector>

#include "functions.h"
#include "parallel.h"
#include "tiles.h"
#include "xla/ffi/api/ffi.h"

namespace jaxocr {
namespace {

namespace ffi = xla::ffi;

constexpr int kLines = kRows;

struct Sizes {
  int batch, frames, hidden;
  int gates() const { return 4 * hidden; }
  int groups() const { return (batch + kLines - 1) / kLines; }
  // Places of a line and frame in [B, T, 2 * width].
  int64_t at(int line, int frame, int direction, int width) const {
    return ((int64_t(line) * frames + frame) * 2 + direction) * width;
  }
};

// out [M, blocks.channels] = start + left [M, inputs] x weights, as `packed`.
void rows_product(int rows, const float* left, int64_t left_step, int inputs,
                  const float* weights, Blocks blocks, const float* start,
                  float* out, int64_t out_step) {
  for (int block = 0; block < blocks.count; ++block) {
    int first = blocks.first(block), vectors = blocks.wide(block);
    Tap tap = {left, weights + int64_t(first) * inputs * kLanes};
    Vec begin[kWide] = {};
    if (start) {
      for (int n = 0; n < vectors; ++n)
        begin[n] = load(start + (first + n) * kLanes);
    }
    with_constant<kRows>(rows, [&](auto m) {
      with_constant<kWide>(vectors, [&](auto n) {
        tile<m.value, n.value>(&tap, 1, inputs, left_step, begin,
                               out + first * kLanes, out_step,
                               blocks.channels - first * kLanes);
      });
    });
  }
}

// Widths are multiples of a vector (the caller sees to it).
void forward(ffi::ThreadPool& pool, Sizes s, const float* projected,
             const float* kernel, const float* bias, float* hidden,
             float* gates, float* cell) {
  int h = s.hidden, g = s.gates();
  Blocks blocks(g);
  Floats weights[2];
  for (int d = 0; d < 2; ++d) {
    weights[d] = packed(kernel + int64_t(d) * h * g, 1, h, g, false);
  }
  parallel(pool, 2 * s.groups(), [&](int64_t task) {
    int d = task % 2, line = task / 2 * kLines;
    int rows = std::min(kLines, s.batch - line);
    Floats state(int64_t(kLines) * h), memory(int64_t(kLines) * h);
    Floats sums(int64_t(kLines) * g);
    for (int step = 0; step < s.frames; ++step) {
      int t = d ? s.frames - 1 - step : step;
      rows_product(rows, state.data(), h, h, weights[d].data(), blocks,
                   bias + d * g, sums.data(), g);
      for (int row = 0; row < rows; ++row) {
        const float* z = &sums[int64_t(row) * g];
        const float* x = projected + s.at(line + row, t, d, g);
        float* gate = gates + s.at(line + row, t, d, g);
        float* out = hidden + s.at(line + row, t, d, h);
        float* kept = cell + s.at(line + row, t, d, h);
        float* held = &memory[int64_t(row) * h];
        for (int u = 0; u < h; u += kLanes) {
          auto sum = [&](int k) {
            return load(z + k * h + u) + load(x + k * h + u);
          };
          Vec i = sigmoid(sum(0)), f = sigmoid(sum(1));
          Vec c = tanh(sum(2)), o = sigmoid(sum(3));
          Vec now = f * load(held + u) + i * c;
          Vec said = o * tanh(now);
          store(gate + u, i);
          store(gate + h + u, f);
          store(gate + 2 * h + u, c);
          store(gate + 3 * h + u, o);
          store(held + u, now);
          store(kept + u, now);
          store(out + u, said);
          store(&state[int64_t(row) * h + u], said);
        }
      }
    }
  });
}

// The cotangent of the sums that enter the gates, [B, T, 2 * gates].
void backward(ffi::ThreadPool& pool, Sizes s, const float* kernel,
              const float* gates, const float* cell, const float* cotangent,
              float* sums) {
  int h = s.hidden, g = s.gates();
  Blocks blocks(h);
  Floats weights[2];
  for (int d = 0; d < 2; ++d) {
    weights[d] = packed(kernel + int64_t(d) * h * g, 1, g, h, true);
  }
  parallel(pool, 2 * s.groups(), [&](int64_t task) {
    int d = task % 2, line = task / 2 * kLines;
    int rows = std::min(kLines, s.batch - line);
    Floats dhidden(int64_t(kLines) * h), dmemory(int64_t(kLines) * h);
    for (int step = s.frames - 1; step >= 0; --step) {
      int t = d ? s.frames - 1 - step : step, before = d ? t + 1 : t - 1;
      for (int row = 0; row < rows; ++row) {
        const float* gate = gates + s.at(line + row, t, d, g);
        const float* now = cell + s.at(line + row, t, d, h);
        const float* heard = cotangent + s.at(line + row, t, d, h);
        float* dz = sums + s.at(line + row, t, d, g);
        for (int u = 0; u < h; u += kLanes) {
          Vec i = load(gate + u), f = load(gate + h + u);
          Vec c = load(gate + 2 * h + u), o = load(gate + 3 * h + u);
          Vec bent = tanh(load(now + u));
          Vec dh = load(heard + u) + load(&dhidden[int64_t(row) * h + u]);
          Vec dc =
              load(&dmemory[int64_t(row) * h + u]) + dh * o * (1 - bent * bent);
          Vec old =
              step ? load(cell + s.at(line + row, before, d, h) + u) : Vec{};
          store(dz + u, dc * c * i * (1 - i));
          store(dz + h + u, dc * old * f * (1 - f));
          store(dz + 2 * h + u, dc * i * (1 - c * c));
          store(dz + 3 * h + u, dh * bent * o * (1 - o));
          store(&dmemory[int64_t(row) * h + u], dc * f);
        }
      }
      rows_product(rows, sums + s.at(line, t, d, g), int64_t(s.frames) * 2 * g,
                   g, weights[d].data(), blocks, nullptr, dhidden.data(), h);
    }
  });
}

// Gradient with respect to the recurrent kernels [2, hidden, gates].
void kernels_gradient(ffi::ThreadPool& pool, Sizes s, const float* hidden,
                      const float* sums, float* dkernel) {
  int h = s.hidden, g = s.gates(), groups = (h + kRows - 1) / kRows;
  Blocks blocks(g);
  std::fill(dkernel, dkernel + int64_t(2) * h * g, 0.0f);
  parallel(pool, 2 * groups, [&](int64_t task) {
    int d = task % 2, unit = task / 2 * kRows, some = std::min(kRows, h - unit);
    for (int line = 0; line < s.batch; ++line) {
      for (int block = 0; block < blocks.count; ++block) {
        int first = blocks.first(block) * kLanes;
        with_constant<kRows>(some, [&](auto m) {
          with_constant<kWide>(blocks.wide(block), [&](auto n) {
            row_gradient<m.value, n.value>(
                hidden + s.at(line, d ? 1 : 0, d, h) + unit, 2 * h,
                sums + s.at(line, d ? 0 : 1, d, g) + first, 2 * g, s.frames - 1,
                dkernel + (int64_t(d) * h + unit) * g + first, g);
          });
        });
      }
    }
  });
}

using Three = ffi::Buffer<ffi::F32, 3>;
using Two = ffi::Buffer<ffi::F32, 2>;

Sizes sizes(Three projected, Three kernel) {
  auto x = projected.dimensions();
  return {int(x[0]), int(x[1]), int(kernel.dimensions()[1])};
}

ffi::Error lstm(ffi::ThreadPool pool, Three projected, Three kernel, Two bias,
                ffi::Result<Three> hidden, ffi::Result<Three> gates,
                ffi::Result<Three> cell) {
  forward(pool, sizes(projected, kernel), projected.typed_data(),
          kernel.typed_data(), bias.typed_data(), hidden->typed_data(),
          gates->typed_data(), cell->typed_data());
  return ffi::Error::Success();
}

ffi::Error lstm_gradient(ffi::ThreadPool pool, Three kernel, Three hidden,
                         Three gates, Three cell, Three cotangent,
                         ffi::Result<Three> sums, ffi::Result<Three> dkernel) {
  Sizes s = sizes(gates, kernel);
  backward(pool, s, kernel.typed_data(), gates.typed_data(), cell.typed_data(),
           cotangent.typed_data(), sums->typed_data());
  kernels_gradient(pool, s, hidden.typed_data(), sums->typed_data(),
                   dkernel->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxocr

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxocr_lstm, jaxocr::lstm,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<jaxocr::Three>()
                                  .Arg<jaxocr::Three>()
                                  .Arg<jaxocr::Two>()
                                  .Ret<jaxocr::Three>()
                                  .Ret<jaxocr::Three>()
                                  .Ret<jaxocr::Three>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxocr_lstm_gradient, jaxocr::lstm_gradient,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<jaxocr::Three>()
                                  .Arg<jaxocr::Three>()
                                  .Arg<jaxocr::Three>()
                                  .Arg<jaxocr::Three>()
                                  .Arg<jaxocr::Three>()
                                  .Ret<jaxocr::Three>()
                                  .Ret<jaxocr::Three>());
