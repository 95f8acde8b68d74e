// Products of matrices, a tile at a time.
//
// A tile is kRows rows by kWide vectors of channels whose sums stay in
// registers while what is summed over goes by (Goto and van de Geijn 2008).
#pragma once

#include <algorithm>
#include <vector>

#include "vector.h"

namespace jaxocr {

struct Tap {
  const float* features;  // Of the tile's first place, this tap.
  const float* weights;   // [C_in][tile's vectors].
};

// One tile: sums over taps and input channels.
template <int M, int N>
void tile(const Tap* taps, int count, int inputs, int64_t step,
          const Vec* start, float* out, int64_t out_step, int channels) {
  Vec sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 3
    for (int n = 0; n < N; ++n) sums[m][n] = start[n];
  }
  for (int t = 0; t < count; ++t) {
    const float* x = taps[t].features;
    const float* w = taps[t].weights;
    for (int c = 0; c < inputs; ++c, ++x, w += N * kLanes) {
      Vec weights[N];
#pragma GCC unroll 3
      for (int n = 0; n < N; ++n) weights[n] = load(w + n * kLanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        Vec value = spread(x[m * step]);
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) sums[m][n] += value * weights[n];
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      int some = std::min(kLanes, channels - n * kLanes);
      float* to = out + m * out_step + n * kLanes;
      some == kLanes ? store(to, sums[m][n]) : Part{some}.store(to, sums[m][n]);
    }
  }
}

// Output channels in blocks of at most kWide vectors.
struct Blocks {
  int channels, vectors, count;
  explicit Blocks(int channels)
      : channels(channels),
        vectors((channels + kLanes - 1) / kLanes),
        count((vectors + kWide - 1) / kWide) {}
  int first(int block) const { return vectors * block / count; }
  int wide(int block) const { return first(block + 1) - first(block); }
};

// A kernel [taps][C_in][C_out], or its transpose, as [block][tap][C_in][block's
// vectors], zeros where C_out ends.
inline Floats packed(const float* kernel, int taps, int inputs, int outputs,
                     bool transposed) {
  Blocks blocks(outputs);
  Floats all(int64_t(taps) * inputs * blocks.vectors * kLanes);
  for (int b = 0; b < blocks.count; ++b) {
    int first = blocks.first(b) * kLanes, wide = blocks.wide(b) * kLanes;
    int some = std::min(wide, outputs - first);
    for (int t = 0; t < taps; ++t) {
      const float* tap = kernel + int64_t(t) * inputs * outputs;
      float* to = &all[(int64_t(first) * taps + int64_t(t) * wide) * inputs];
      if (transposed) {
        for (int o = 0; o < some; ++o) {
          const float* from = tap + int64_t(first + o) * inputs;
          for (int c = 0; c < inputs; ++c) to[c * wide + o] = from[c];
        }
      } else {
        for (int c = 0; c < inputs; ++c) {
          const float* from = tap + int64_t(c) * outputs + first;
          std::copy(from, from + some, to + c * wide);
        }
      }
    }
  }
  return all;
}

// Adds to M input channels by N vectors of output channels what a row gives.
template <int M, int N>
void row_gradient(const float* x, int64_t step, const float* cotangent,
                  int64_t out_step, int places, float* sums,
                  int64_t sums_step) {
  Vec all[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 3
    for (int n = 0; n < N; ++n)
      all[m][n] = load(sums + m * sums_step + n * kLanes);
  }
  for (int p = 0; p < places; ++p, x += step, cotangent += out_step) {
    Vec heard[N];
#pragma GCC unroll 3
    for (int n = 0; n < N; ++n) heard[n] = load(cotangent + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      Vec seen = spread(x[m]);
#pragma GCC unroll 3
      for (int n = 0; n < N; ++n) all[m][n] += seen * heard[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 3
    for (int n = 0; n < N; ++n)
      store(sums + m * sums_step + n * kLanes, all[m][n]);
  }
}

}  // namespace jaxocr
