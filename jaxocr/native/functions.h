// Functions of vectors. exp is right to a few of float32's last bits; sigmoid
// and tanh to some 1e-7, also where tanh is smaller than that.
#pragma once

#include "vector.h"

namespace jaxocr {

// exp(x) = 2^n exp(r) with |r| <= ln(2) / 2, exp(r) by its series to the 7th
// power; x is clamped to where the result is a normal number.
inline Vec exp(Vec x) {
  const Vec low = spread(-87.0f), high = spread(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  // Adding 1.5 * 2^23 rounds to an integer, which the last bits then hold.
  const Vec magic = spread(12582912.0f);
  Vec shifted = x * spread(1.44269504f) + magic;
  Vec n = shifted - magic;
  Vec r = x - n * spread(0.693145752f);  // ln(2) in two parts.
  r = r - n * spread(1.42860677e-6f);
  Vec p = spread(1.0f / 5040);
  for (float c :
       {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
    p = p * r + spread(c);
  }
  IntVec power = ((IntVec)shifted - (IntVec)magic + 127) << 23;
  return p * (Vec)power;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }
inline Vec tanh(Vec x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

}  // namespace jaxocr
