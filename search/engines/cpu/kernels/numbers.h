// Sixteen numbers worked on together: one register with AVX-512, two or more elsewhere.

#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int COLUMNS = 16; // of a packed panel, and numbers worked on together

typedef float HalfFloats __attribute__((vector_size(32)));
typedef int32_t HalfInts __attribute__((vector_size(32)));

#if defined(__AVX512F__)
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef float LooseFloats __attribute__((vector_size(64), aligned(4)));
typedef int32_t LooseInts __attribute__((vector_size(64), aligned(4)));

inline Floats load(const float *from) { return *reinterpret_cast<const LooseFloats *>(from); }
inline Ints load(const int32_t *from) { return *reinterpret_cast<const LooseInts *>(from); }
inline void store(float *to, Floats value) { *reinterpret_cast<LooseFloats *>(to) = value; }
inline Floats all(float value) { return value - Floats{}; }
inline Ints all(int32_t value) { return value - Ints{}; }
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats as_floats(Ints value) { return __builtin_convertvector(value, Floats); }
inline Ints as_ints(Floats value) { return __builtin_convertvector(value, Ints); }
inline Floats as_their_bits(Ints value) { return (Floats)value; }
inline Ints bits_of(Floats value) { return (Ints)value; }
template <class Half, class Whole> inline Half low(Whole value) {
  return __builtin_shufflevector(value, value, 0, 1, 2, 3, 4, 5, 6, 7);
}
template <class Half, class Whole> inline Half high(Whole value) {
  return __builtin_shufflevector(value, value, 8, 9, 10, 11, 12, 13, 14, 15);
}
#else
typedef float LooseFloats __attribute__((vector_size(32), aligned(4)));
typedef int32_t LooseInts __attribute__((vector_size(32), aligned(4)));

// Spelled out, since compilers take vectors wider than a register through memory.
template <class Half, class Number> struct Pair {
  Half low, high;
  Pair() : low{}, high{} {}
  Pair(Half low_, Half high_) : low(low_), high(high_) {}
  Pair(Number value) : low(value - Half{}), high(value - Half{}) {}
  friend Pair operator+(Pair a, Pair b) { return {a.low + b.low, a.high + b.high}; }
  friend Pair operator-(Pair a, Pair b) { return {a.low - b.low, a.high - b.high}; }
  friend Pair operator*(Pair a, Pair b) { return {a.low * b.low, a.high * b.high}; }
  friend Pair operator/(Pair a, Pair b) { return {a.low / b.low, a.high / b.high}; }
  Pair operator<<(int places) const { return {low << places, high << places}; }
  void operator+=(Pair more) { *this = *this + more; }
};
typedef Pair<HalfFloats, float> Floats;
typedef Pair<HalfInts, int32_t> Ints;

inline Floats load(const float *from) {
  const LooseFloats *halves = reinterpret_cast<const LooseFloats *>(from);
  return {halves[0], halves[1]};
}
inline Ints load(const int32_t *from) {
  const LooseInts *halves = reinterpret_cast<const LooseInts *>(from);
  return {halves[0], halves[1]};
}
inline void store(float *to, Floats value) {
  LooseFloats *halves = reinterpret_cast<LooseFloats *>(to);
  halves[0] = value.low;
  halves[1] = value.high;
}
inline Floats all(float value) { return value; }
inline Ints all(int32_t value) { return value; }
inline Floats smaller(Floats a, Floats b) {
  return {a.low < b.low ? a.low : b.low, a.high < b.high ? a.high : b.high};
}
inline Floats larger(Floats a, Floats b) {
  return {a.low > b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
}
inline Floats as_floats(Ints value) {
  return {__builtin_convertvector(value.low, HalfFloats),
          __builtin_convertvector(value.high, HalfFloats)};
}
inline Ints as_ints(Floats value) {
  return {__builtin_convertvector(value.low, HalfInts),
          __builtin_convertvector(value.high, HalfInts)};
}
inline Floats as_their_bits(Ints value) { return {(HalfFloats)value.low, (HalfFloats)value.high}; }
inline Ints bits_of(Floats value) { return {(HalfInts)value.low, (HalfInts)value.high}; }
template <class Half, class Whole> inline Half low(Whole value) { return value.low; }
template <class Half, class Whole> inline Half high(Whole value) { return value.high; }
#endif

// All sixteen taken together, halves first.
template <class Half, class Whole, class Together> inline auto fold(Whole value, Together together) {
  Half halves = together(low<Half>(value), high<Half>(value));
  auto fours = together(__builtin_shufflevector(halves, halves, 0, 1, 2, 3),
                        __builtin_shufflevector(halves, halves, 4, 5, 6, 7));
  return together(together(fours[0], fours[2]), together(fours[1], fours[3]));
}
inline float sum(Floats value) {
  return fold<HalfFloats>(value, [](auto a, auto b) { return a + b; });
}
inline int32_t sum(Ints value) {
  return fold<HalfInts>(value, [](auto a, auto b) { return a + b; });
}
inline float largest(Floats value) {
  return fold<HalfFloats>(value, [](auto a, auto b) { return a > b ? a : b; });
}

// The last bytes.
inline void store_bytes(uint8_t *to, Ints value) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)value));
#elif defined(__AVX2__)
  __m256i words = _mm256_packus_epi32((__m256i)value.low, (__m256i)value.high);
  words = _mm256_permute4x64_epi64(words, 0xD8);
  _mm_storeu_si128((__m128i *)to, _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                   _mm256_extracti128_si256(words, 1)));
#else
  for (int lane = 0; lane < 8; ++lane) to[lane] = (uint8_t)value.low[lane];
  for (int lane = 0; lane < 8; ++lane) to[8 + lane] = (uint8_t)value.high[lane];
#endif
}

// To the nearest integer, ties to even, below 2^22: the sum has no room for a fraction.
constexpr float ROOM = 12582912.0f;
inline Floats nearest(Floats value) { return (value + ROOM) - ROOM; }

// 2^x for x <= 0: the fraction by a fitted polynomial, relative error below 3e-7.
inline Floats power_of_two(Floats x) {
  x = larger(x, all(-126.0f));
  Floats n = nearest(x), r = x - n;
  Floats p = all(0.00132647273f);
  p = p * r + 0.00967151277f;
  p = p * r + 0.0555073374f;
  p = p * r + 0.240222421f;
  p = p * r + 0.693146978f;
  p = p * r + 1.0f;
  return p * as_their_bits((as_ints(n) + 127) << 23);
}

// x (1 + erf(x / sqrt 2)) / 2, with erf(z) = z P(z^2) / Q(z^2): fitted to |z| <= 4, beyond which
// erf is 1 to single precision; error below 3e-7 there.
inline Floats gelu(Floats x) {
  Floats z = smaller(larger(x * 0.70710678118654752f, all(-4.0f)), all(4.0f)), s = z * z;
  Floats p = all(1.9217005e-8f);
  p = p * s - 1.9903155e-6f;
  p = p * s + 1.5553789e-4f;
  p = p * s + 4.2931198e-3f;
  p = p * s + 5.2433710e-2f;
  p = p * s + 2.1394641e-1f;
  p = p * s + 1.1283787f;
  Floats q = all(1.0980523e-3f);
  q = q * s + 1.5551239e-2f;
  q = q * s + 1.2080034e-1f;
  q = q * s + 5.2293272e-1f;
  q = q * s + 1.0f;
  Floats half = x * 0.5f;
  return half + half * (z * p / q);
}

} // namespace
