// Vectors of the widest kind the processor has, and how much a tile holds.
#pragma once

#include <cstdint>
#include <new>
#include <type_traits>
#include <vector>

namespace jaxocr {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
constexpr int kRows = 8;  // 8 x 3 sums, 3 weights, 1 value: 28 of 32 registers.
#elif defined(__AVX2__)
constexpr int kBytes = 32;
constexpr int kRows = 4;  // 4 x 3 sums, 3 weights, 1 value: all 16 registers.
#else
constexpr int kBytes = 16;
constexpr int kRows = 4;
#endif
constexpr int kLanes = kBytes / sizeof(float);
constexpr int kWide = 3;  // Vectors of a tile, side by side.

typedef float Vec __attribute__((vector_size(kBytes), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kBytes), aligned(4)));

inline Vec load(const float* from) {
  return *reinterpret_cast<const Vec*>(from);
}
inline void store(float* to, Vec x) { *reinterpret_cast<Vec*>(to) = x; }
// (Adding 0 would be an operation: -0 + 0 is 0.)
inline Vec spread(float x) { return x - Vec{}; }

// Floats that begin where a vector does: one that lies across two cache lines
// takes twice as long to read.
template <typename T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)));
  }
  void deallocate(T* p, std::size_t) {
    ::operator delete(p, std::align_val_t(64));
  }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
using Floats = std::vector<float, Aligned<float>>;

// How the vectors of a row of `channels` are read and written: whole ones, the
// last of which may overlap its neighbour, or, of fewer channels, a part of
// one.
struct Whole {
  static Vec load(const float* from) { return jaxocr::load(from); }
  static void store(float* to, Vec x) { jaxocr::store(to, x); }
  static constexpr int some = kLanes;
};
struct Part {
  int some;
  Vec load(const float* from) const {
    Vec x = {};
    for (int i = 0; i < some; ++i) x[i] = from[i];
    return x;
  }
  void store(float* to, Vec x) const {
    for (int i = 0; i < some; ++i) to[i] = x[i];
  }
};

// Calls f with one of these.
template <typename F>
inline void by_width(int channels, F&& f) {
  channels < kLanes ? f(Part{channels}) : f(Whole{});
}

// Calls f with std::integral_constant<int, n> for n in 1..N, n given when run.
template <int N, typename F>
inline void with_constant(int n, F&& f) {
  if constexpr (N > 0) {
    if (n == N) return f(std::integral_constant<int, N>{});
    with_constant<N - 1>(n, f);
  }
}

}  // namespace jaxocr
