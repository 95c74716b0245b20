// Products of codes: unsigned on the left, signed and packed into panels on the right. Sums of
// integers, so they are exact and depend on neither batch nor threads.

#pragma once

#include <algorithm>

#include "numbers.h"

namespace {

#if defined(__AVX512VNNI__)
constexpr int ROWS = 8; // of a tile
#else
constexpr int ROWS = 4;
#endif

// The products of ROWS rows of codes, [4 * quads] each, and one packed panel: out [ROWS][COLUMNS].
// A panel holds, for every four inputs, four weights of each of its columns.
#if defined(__AVX512VNNI__)
// Four products at once, added to 32 bits.
void tile(const uint8_t *const (&rows)[ROWS], const int8_t *panel, int quads, int, int32_t *out) {
  __m512i sums[ROWS];
  for (int row = 0; row < ROWS; ++row) sums[row] = _mm512_setzero_si512();
  for (int quad = 0; quad < quads; ++quad) {
    __m512i weights = _mm512_loadu_si512(panel + quad * 64L);
    for (int row = 0; row < ROWS; ++row) {
      int32_t four;
      std::memcpy(&four, rows[row] + quad * 4, 4);
      sums[row] = _mm512_dpbusd_epi32(sums[row], _mm512_set1_epi32(four), weights);
    }
  }
  for (int row = 0; row < ROWS; ++row) _mm512_store_si512(out + row * COLUMNS, sums[row]);
}
#elif defined(__AVX2__)
inline void add_to(int32_t *out, __m256i sums, bool first) {
  __m256i *to = (__m256i *)out;
  if (!first) sums = _mm256_add_epi32(_mm256_load_si256(to), sums);
  _mm256_store_si256(to, sums);
}

// Sums of 16 bits. Spelled out, since a compiler that is left its choice of registers and order keeps
// a sum in memory, or moves each of them twice.
inline void add_row(__m256i &s0, __m256i &s1, const uint8_t *four, __m256i b0, __m256i b1) {
  __m256i a, product;
  asm volatile("vpbroadcastd %4, %2\n\t"
               "vpmaddubsw %5, %2, %3\n\t"
               "vpmaddubsw %6, %2, %2\n\t"
               "vpaddw %3, %0, %0\n\t"
               "vpaddw %2, %1, %1"
               : "+x"(s0), "+x"(s1), "=&x"(a), "=&x"(product)
               : "m"(*reinterpret_cast<const int32_t *>(four)), "x"(b0), "x"(b1));
}

inline void add_wide_row(__m256i &s0, __m256i &s1, const uint8_t *four, __m256i b0, __m256i b1) {
  __m256i a, product;
  asm volatile("vpbroadcastd %4, %x2\n\t"
               "vpmovzxbw %x2, %2\n\t"
               "vpmaddwd %5, %2, %3\n\t"
               "vpmaddwd %6, %2, %2\n\t"
               "vpaddd %3, %0, %0\n\t"
               "vpaddd %2, %1, %1"
               : "+x"(s0), "+x"(s1), "=&x"(a), "=&x"(product)
               : "m"(*reinterpret_cast<const int32_t *>(four)), "x"(b0), "x"(b1));
}

// Where a pair of products may exceed 16 bits: widened before it is multiplied.
void wide_tile(const uint8_t *const (&rows)[ROWS], const int8_t *panel, int quads, int32_t *out) {
  auto finish = [](int32_t *to, __m256i low, __m256i high) { // neighbours belong to one column
    _mm256_store_si256((__m256i *)to,
                       _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xD8));
  };
  const uint8_t *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
  for (int half = 0; half < 2; ++half) {
    __m256i s00 = _mm256_setzero_si256(), s01 = s00, s10 = s00, s11 = s00;
    __m256i s20 = s00, s21 = s00, s30 = s00, s31 = s00;
    const int8_t *from = panel + half * 32;
    for (int quad = 0; quad < quads; ++quad, from += 64) {
      __m256i b0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
      __m256i b1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(from + 16)));
      add_wide_row(s00, s01, r0 + quad * 4, b0, b1);
      add_wide_row(s10, s11, r1 + quad * 4, b0, b1);
      add_wide_row(s20, s21, r2 + quad * 4, b0, b1);
      add_wide_row(s30, s31, r3 + quad * 4, b0, b1);
    }
    finish(out + half * 8, s00, s01);
    finish(out + half * 8 + 16, s10, s11);
    finish(out + half * 8 + 32, s20, s21);
    finish(out + half * 8 + 48, s30, s31);
  }
}

void tile(const uint8_t *const (&rows)[ROWS], const int8_t *panel, int quads, int steps,
          int32_t *out) {
  if (steps == 0) return wide_tile(rows, panel, quads, out);
  const __m256i ones = _mm256_set1_epi16(1);
  const uint8_t *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
  for (int quad = 0; quad < quads;) {
    const bool first = quad == 0;
    const int stop = std::min(quads, quad + steps);
    __m256i s00 = _mm256_setzero_si256(), s01 = s00, s10 = s00, s11 = s00;
    __m256i s20 = s00, s21 = s00, s30 = s00, s31 = s00;
    for (; quad < stop; ++quad) {
      __m256i b0 = _mm256_loadu_si256((const __m256i *)(panel + quad * 64L));
      __m256i b1 = _mm256_loadu_si256((const __m256i *)(panel + quad * 64L + 32));
      add_row(s00, s01, r0 + quad * 4, b0, b1);
      add_row(s10, s11, r1 + quad * 4, b0, b1);
      add_row(s20, s21, r2 + quad * 4, b0, b1);
      add_row(s30, s31, r3 + quad * 4, b0, b1);
    }
    add_to(out, _mm256_madd_epi16(s00, ones), first);
    add_to(out + 8, _mm256_madd_epi16(s01, ones), first);
    add_to(out + 16, _mm256_madd_epi16(s10, ones), first);
    add_to(out + 24, _mm256_madd_epi16(s11, ones), first);
    add_to(out + 32, _mm256_madd_epi16(s20, ones), first);
    add_to(out + 40, _mm256_madd_epi16(s21, ones), first);
    add_to(out + 48, _mm256_madd_epi16(s30, ones), first);
    add_to(out + 56, _mm256_madd_epi16(s31, ones), first);
  }
}
#else
void tile(const uint8_t *const (&rows)[ROWS], const int8_t *panel, int quads, int, int32_t *out) {
  std::memset(out, 0, sizeof(int32_t) * ROWS * COLUMNS);
  for (int quad = 0; quad < quads; ++quad)
    for (int row = 0; row < ROWS; ++row)
      for (int column = 0; column < COLUMNS; ++column) {
        int32_t found = 0;
        for (int part = 0; part < 4; ++part)
          found += rows[row][quad * 4 + part] * panel[quad * 64L + column * 4 + part];
        out[row * COLUMNS + column] += found;
      }
}
#endif

// Every product [rows] x [columns] of left [rows, 4 * quads] and packed panels, to
// each(row, column, sums [COLUMNS]).
template <class Each>
void multiply(const uint8_t *left, long pitch, long rows, const int8_t *panels, int quads,
              long columns, int steps, Each each) {
  alignas(64) int32_t out[ROWS * COLUMNS];
  for (long row = 0; row < rows; row += ROWS) {
    int count = (int)std::min<long>(ROWS, rows - row);
    const uint8_t *these[ROWS]; // the last row stands in for those that are not there
    for (int one = 0; one < ROWS; ++one) these[one] = left + (row + std::min(one, count - 1)) * pitch;
    for (long column = 0; column < columns; column += COLUMNS) {
      tile(these, panels + column / COLUMNS * quads * 64L, quads, steps, out);
      for (int one = 0; one < count; ++one) each(row + one, column, out + one * COLUMNS);
    }
  }
}

} // namespace
