// Depthwise convolutions over features [B, H, W, C], and their gradients.
//
// A vector holds neighbouring channels of one place.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "vector.h"
#include "xla/ffi/api/ffi.h"

namespace jaxocr {
namespace {

namespace ffi = xla::ffi;

struct Map {
  int batch, height, width, channels, size, rows, columns;  // strides
  int high() const { return (height + rows - 1) / rows; }
  int wide() const { return (width + columns - 1) / columns; }
  int before() const { return (size - 1) / 2; }
  int64_t seen(int b, int y, int x) const {
    return ((int64_t(b) * height + y) * width + x) * channels;
  }
  int64_t made(int b, int y, int x) const {
    return ((int64_t(b) * high() + y) * wide() + x) * channels;
  }
};

// What one tap of the kernel adds to a row of sums.
struct Tap {
  const float* row;     // Of the source, [places][C].
  const float* weight;  // [C].
  int offset;           // Source place = place * step + offset.
};

// The places of a row all of whose taps lie within the source, [from, to).
struct Inner {
  int from, to;
};
Inner inner(const Tap* taps, int count, int step, int width, int places) {
  Inner found = {0, places};
  for (int t = 0; t < count; ++t) {
    int offset = taps[t].offset;
    if (offset < 0)
      found.from = std::max(found.from, (-offset + step - 1) / step);
    int beyond = std::max(0, (width - offset + step - 1) / step);
    found.to = std::min(found.to, beyond);
  }
  found.from = std::min(found.from, places);
  found.to = std::max(found.to, found.from);
  return found;
}

// out[place][c] = sum over taps of weight[c] * row[place * step + offset][c].
void sum_row(const Tap* taps, int count, int step, int width, int places,
             int channels, float* out, int64_t out_step) {
  Inner whole = inner(taps, count, step, width, places);
  auto sums = [&](int place, int channel, auto io, auto checked) {
    Vec sum = {};
    for (int t = 0; t < count; ++t) {
      int at = place * step + taps[t].offset;
      if (checked.value && (at < 0 || at >= width)) continue;
      sum += io.load(taps[t].weight + channel) *
             io.load(taps[t].row + int64_t(at) * channels + channel);
    }
    io.store(out + place * out_step + channel, sum);
  };
  std::true_type yes;
  std::false_type no;
  by_width(channels, [&](auto io) {
    // The last vector may overlap its neighbour, and says the same.
    for (int start = 0; start < channels; start += kLanes) {
      int channel = std::max(0, std::min(start, channels - kLanes));
      for (int p = 0; p < whole.from; ++p) sums(p, channel, io, yes);
      for (int p = whole.from; p < whole.to; ++p) sums(p, channel, io, no);
      for (int p = whole.to; p < places; ++p) sums(p, channel, io, yes);
    }
  });
}

void forward(ffi::ThreadPool& pool, Map m, const float* x, const float* kernel,
             float* y) {
  int high = m.high();
  parallel(pool, m.batch, [&](int64_t b) {
    std::vector<Tap> taps;
    for (int row = 0; row < high; ++row) {
      taps.clear();
      for (int t = 0; t < m.size * m.size; ++t) {
        int from = row * m.rows - m.before() + t / m.size;
        if (from < 0 || from >= m.height) continue;
        taps.push_back({x + m.seen(b, from, 0), kernel + t * m.channels,
                        t % m.size - m.before()});
      }
      sum_row(taps.data(), taps.size(), m.columns, m.width, m.wide(),
              m.channels, y + m.made(b, row, 0), m.channels);
    }
  });
}

void features_gradient(ffi::ThreadPool& pool, Map m, const float* kernel,
                       const float* cotangent, float* dx) {
  int high = m.high();
  parallel(pool, m.batch, [&](int64_t b) {
    std::vector<Tap> taps;
    for (int row = 0; row < m.height; ++row) {
      // Places of one phase of the column stride hear the same taps.
      for (int phase = 0; phase < std::min(m.columns, m.width); ++phase) {
        taps.clear();
        for (int t = 0; t < m.size * m.size; ++t) {
          int down = row + m.before() - t / m.size;
          int right = phase + m.before() - t % m.size;
          if (down < 0 || down % m.rows || down / m.rows >= high) continue;
          if (right % m.columns) continue;
          taps.push_back({cotangent + m.made(b, down / m.rows, 0),
                          kernel + t * m.channels, right / m.columns});
        }
        sum_row(taps.data(), taps.size(), 1, m.wide(),
                (m.width - phase + m.columns - 1) / m.columns, m.channels,
                dx + m.seen(b, row, phase), int64_t(m.columns) * m.channels);
      }
    }
  });
}

// Adds to the taps of one row of the kernel, [k][C], what one row of cotangents
// gives.
void row_gradient(Map m, const float* x, const float* cotangent,
                  float* dkernel) {
  by_width(m.channels, [&](auto io) {
    for (int start = 0; start < m.channels; start += kLanes) {
      int channel = std::max(0, std::min(start, m.channels - kLanes));
      // A vector that overlaps adds only what its neighbour did not.
      int again = start - channel;
      for (int j = 0; j < m.size; ++j) {
        Tap tap = {x, nullptr, j - m.before()};
        Inner whole = inner(&tap, 1, m.columns, m.width, m.wide());
        Vec even = {}, odd = {};  // Two chains of sums take half the time.
        auto product = [&](int place) {
          int64_t at = place * m.columns + tap.offset;
          return io.load(x + at * m.channels + channel) *
                 io.load(cotangent + int64_t(place) * m.channels + channel);
        };
        int place = whole.from;
        for (; place + 1 < whole.to; place += 2) {
          even += product(place);
          odd += product(place + 1);
        }
        if (place < whole.to) even += product(place);
        even += odd;
        float* to = dkernel + j * m.channels + channel;
        for (int c = again; c < io.some; ++c) to[c] += even[c];
      }
    }
  });
}

// Lines in parts whose number does not depend on the threads, so neither does
// the order of sums.
void kernel_gradient(ffi::ThreadPool& pool, Map m, const float* x,
                     const float* cotangent, float* dkernel) {
  int parts = std::min(m.batch, 16), high = m.high();
  int64_t size = int64_t(m.size) * m.size * m.channels;
  Floats sums(parts * size);
  parallel(pool, parts, [&](int64_t part) {
    float* mine = &sums[part * size];
    for (int b = m.batch * part / parts; b < m.batch * (part + 1) / parts;
         ++b) {
      for (int row = 0; row < high; ++row) {
        for (int i = 0; i < m.size; ++i) {
          int from = row * m.rows - m.before() + i;
          if (from < 0 || from >= m.height) continue;
          row_gradient(m, x + m.seen(b, from, 0), cotangent + m.made(b, row, 0),
                       mine + i * m.size * m.channels);
        }
      }
    }
  });
  std::copy(sums.begin(), sums.begin() + size, dkernel);
  for (int part = 1; part < parts; ++part) {
    for (int64_t i = 0; i < size; ++i) dkernel[i] += sums[part * size + i];
  }
}

using Four = ffi::Buffer<ffi::F32, 4>;
using Three = ffi::Buffer<ffi::F32, 3>;

Map map(Four x, Three kernel, int64_t rows, int64_t columns) {
  auto size = x.dimensions();
  return {int(size[0]),
          int(size[1]),
          int(size[2]),
          int(size[3]),
          int(kernel.dimensions()[0]),
          int(rows),
          int(columns)};
}

ffi::Error depthwise(ffi::ThreadPool pool, Four x, Three kernel,
                     ffi::Result<Four> y, int64_t rows, int64_t columns) {
  forward(pool, map(x, kernel, rows, columns), x.typed_data(),
          kernel.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

ffi::Error depthwise_gradient(ffi::ThreadPool pool, Four x, Three kernel,
                              Four cotangent, ffi::Result<Four> dx,
                              ffi::Result<Three> dkernel, int64_t rows,
                              int64_t columns) {
  Map m = map(x, kernel, rows, columns);
  features_gradient(pool, m, kernel.typed_data(), cotangent.typed_data(),
                    dx->typed_data());
  kernel_gradient(pool, m, x.typed_data(), cotangent.typed_data(),
                  dkernel->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxocr

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxocr_depthwise, jaxocr::depthwise,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<jaxocr::Four>()
                                  .Arg<jaxocr::Three>()
                                  .Ret<jaxocr::Four>()
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("columns"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxocr_depthwise_gradient,
                              jaxocr::depthwise_gradient,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<jaxocr::Four>()
                                  .Arg<jaxocr::Three>()
                                  .Arg<jaxocr::Four>()
                                  .Ret<jaxocr::Four>()
                                  .Ret<jaxocr::Three>()
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("columns"));
