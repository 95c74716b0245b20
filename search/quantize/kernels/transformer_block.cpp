// A quantized transformer block on integer codes, for CPUs.
//
// Activations are unsigned codes, less their zero point the values of the reference engine; the
// right operand of every product is signed. Products are sums of integers, so they are exact and
// depend on neither batch nor threads. What lies between two products (dequantization, softmax,
// GELU, the next quantization) happens while the numbers are in registers, and an image or a few
// stay in the cache from the block's first layer to its last.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 8;    // floats worked on together
constexpr int COLUMNS = 16; // of a packed panel
constexpr int ROWS = 4;     // of a tile

typedef float Floats __attribute__((vector_size(32)));
typedef float LooseFloats __attribute__((vector_size(32), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef int32_t LooseInts __attribute__((vector_size(32), aligned(4)));
typedef int8_t Signed __attribute__((vector_size(16), aligned(1)));

inline Floats load(const float *from) { return *reinterpret_cast<const LooseFloats *>(from); }
inline void store(float *to, Floats value) { *reinterpret_cast<LooseFloats *>(to) = value; }
inline Ints load(const int32_t *from) { return *reinterpret_cast<const LooseInts *>(from); }
inline Floats all(float value) { return value - Floats{}; }
inline Ints all(int32_t value) { return value - Ints{}; }
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats as_floats(Ints value) { return __builtin_convertvector(value, Floats); }
inline Ints as_ints(Floats value) { return __builtin_convertvector(value, Ints); }

// To the nearest integer, ties to even, below 2^22: the sum has no room for a fraction.
constexpr float ROOM = 12582912.0f;
inline Floats nearest(Floats value) { return (value + ROOM) - ROOM; }

template <class Vector> inline auto sum(Vector value) {
  auto total = value[0] * 0;
  for (int lane = 0; lane < LANES; ++lane) total += value[lane];
  return total;
}

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
  return p * (Floats)((as_ints(n) + 127) << 23);
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

extern "C" {

// Codes of an activation: clamp(round(value * inverse), lowest, highest) - lowest.
struct Levels {
  float inverse;
  int32_t lowest, highest;
};

// A linear layer: value[o] = (sum[o] + offset[o]) * scale[o] + bias[o], where the offset makes up for
// codes that begin at zero.
struct Linear {
  const int8_t *weights; // packed
  const int32_t *offsets; // of each output: the input's lowest code times its weights' sum
  const float *scale, *bias;
  int32_t inputs, outputs;
  int32_t steps; // products of four that 16 bits hold; 0 where not even one
};

struct Block {
  int32_t width, heads, head_width, hidden;
  float epsilon1, epsilon2;
  float query_scale;                        // of attention, before the product
  const float *norm1_weight, *norm1_bias;   // [width]
  const float *norm2_weight, *norm2_bias;   // [width]
  const float *branch1_scale, *branch2_scale; // [width], or null
  Linear qkv, proj, fc1, fc2;
  Levels qkv_input, query, key, probability, value, proj_input, fc1_input, fc2_input;
  float scores_scale, context_scale;
  int32_t scores_steps, context_steps;
  int32_t key_middle, value_middle; // subtracted from codes to make them signed
  // Probabilities are never negative, so probability.lowest is 0.
};
}

namespace {

inline long round_up(long value, long to) { return (value + to - 1) / to * to; }

inline void store_bytes(uint8_t *to, Ints left, Ints right) {
#if defined(__AVX2__)
  __m256i words = _mm256_packus_epi32((__m256i)left, (__m256i)right);
  words = _mm256_permute4x64_epi64(words, 0xD8);
  _mm_storeu_si128((__m128i *)to, _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                   _mm256_extracti128_si256(words, 1)));
#else
  for (int lane = 0; lane < LANES; ++lane) to[lane] = (uint8_t)left[lane];
  for (int lane = 0; lane < LANES; ++lane) to[LANES + lane] = (uint8_t)right[lane];
#endif
}

// What turns values into codes, in vectors.
struct Coder {
  Floats inverse, low, high;
  Ints zero;
  explicit Coder(Levels levels)
      : inverse(all(levels.inverse)), low(all((float)levels.lowest + ROOM)),
        high(all((float)levels.highest + ROOM)), zero((Ints)low) {}
  // Added to ROOM, a value is rounded and lies in the last bits.
  Ints codes(Floats value) const {
    return (Ints)smaller(larger(value * inverse + ROOM, low), high) - zero;
  }
  void put(uint8_t *to, Floats left, Floats right) const {
    store_bytes(to, codes(left), codes(right));
  }
};

// The products of four rows of codes, [4 * quads] each, and one packed panel: out [ROWS][COLUMNS].
// A panel holds, for every four inputs, four weights of each of its columns.
#if defined(__AVX2__)
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
    const uint8_t *four[ROWS]; // the last rows stand in where there are no four left
    for (int one = 0; one < ROWS; ++one) four[one] = left + (row + std::min(one, count - 1)) * pitch;
    for (long column = 0; column < columns; column += COLUMNS) {
      tile(four, panels + column / COLUMNS * quads * 64L, quads, steps, out);
      for (int one = 0; one < count; ++one) each(row + one, column, out + one * COLUMNS);
    }
  }
}

// Codes of layer-normalized rows. Mean and variance in two passes, as LayerNorm is defined.
void normalize(const float *rows, long count, int width, const float *weight, const float *bias,
               float epsilon, Levels levels, uint8_t *codes) {
  const Coder coder(levels);
  for (long row = 0; row < count; ++row) {
    const float *from = rows + row * width;
    Floats total{};
    for (int at = 0; at < width; at += LANES) total += load(from + at);
    Floats mean = all(sum(total) / width), squares{};
    for (int at = 0; at < width; at += LANES) {
      Floats off = load(from + at) - mean;
      squares += off * off;
    }
    Floats factor = all(1.0f / std::sqrt(sum(squares) / width + epsilon));
    auto value = [&](int at) {
      return (load(from + at) - mean) * factor * load(weight + at) + load(bias + at);
    };
    for (int at = 0; at < width; at += COLUMNS)
      coder.put(codes + row * width + at, value(at), value(at + LANES));
  }
}

// What one thread works in, for `images` images of `tokens` tokens.
struct Room {
  long tokens, rows, padded;
  uint8_t *codes, *qkv, *hidden, *probabilities;
  int8_t *keys, *values;
  int32_t *key_offsets, *query_sums;
  float *scores;

  // Lays the room out from `base`, or only measures it when that is null.
  long lay(const Block &block, long images, long tokens_, char *base) {
    tokens = tokens_;
    rows = images * tokens;
    padded = round_up(tokens, COLUMNS);
    char *next = base;
    auto take = [&](auto *&place, long count) {
      place = reinterpret_cast<std::remove_reference_t<decltype(place)>>(next);
      next += round_up(count * (long)sizeof(*place), 64);
    };
    take(codes, (rows + ROWS) * block.width);
    take(qkv, (rows + ROWS) * 3 * block.width);
    take(hidden, (rows + ROWS) * block.hidden);
    take(probabilities, (tokens + ROWS) * padded);
    take(keys, padded * block.head_width);
    take(values, padded * block.head_width);
    take(key_offsets, padded);
    take(query_sums, padded);
    take(scores, ROWS * padded);
    return next - base;
  }
};

// Keys of one head as panels of COLUMNS tokens, the sums of every token's query codes, and those of
// its key codes times the query's offset.
void pack_keys(Room &room, const uint8_t *query, const uint8_t *key, long pitch, int width,
               int middle, int32_t query_offset) {
  std::memset(room.key_offsets, 0, room.padded * sizeof(int32_t));
  for (long token = 0; token < room.padded; ++token) {
    int8_t *column = room.keys + token / COLUMNS * width * COLUMNS + token % COLUMNS * 4;
    if (token >= room.tokens) {
      for (int quad = 0; quad < width / 4; ++quad) std::memset(column + quad * 64, 0, 4);
      continue;
    }
    const uint8_t *q = query + token * pitch, *k = key + token * pitch;
    int32_t q_sum = 0, k_sum = 0;
    for (int at = 0; at < width; ++at) q_sum += q[at];
    for (int at = 0; at < width; ++at) k_sum += k[at];
    room.query_sums[token] = q_sum;
    room.key_offsets[token] = (k_sum - width * middle) * query_offset;
    const Signed shift = (int8_t)middle - Signed{}; // 128 wraps around, and so does the difference
    for (int at = 0; at < width; at += 16) {
      Signed codes = *reinterpret_cast<const Signed *>(k + at) - shift;
      for (int quad = 0; quad < 4; ++quad)
        std::memcpy(column + (at / 4 + quad) * 64, reinterpret_cast<const char *>(&codes) + quad * 4, 4);
    }
  }
}

// Values of one head as panels of COLUMNS channels.
void pack_values(Room &room, const uint8_t *value, long pitch, int width, int middle) {
  const Signed shift = (int8_t)middle - Signed{};
  for (long token = 0; token < room.padded; token += 4)
    for (int first = 0; first < width; first += COLUMNS) {
      Signed four[4];
      for (int part = 0; part < 4; ++part) {
        four[part] = Signed{};
        if (token + part >= room.tokens) continue;
        four[part] =
            *reinterpret_cast<const Signed *>(value + (token + part) * pitch + first) - shift;
      }
      int8_t *to = room.values + first * room.padded + token * COLUMNS;
      for (int half = 0; half < 2; ++half) { // bytes of four tokens side by side
        typedef int8_t Bytes __attribute__((vector_size(16)));
        typedef int16_t Words __attribute__((vector_size(16)));
        Bytes low, high;
        if (half == 0) {
          low = __builtin_shufflevector((Bytes)four[0], (Bytes)four[1], 0, 16, 1, 17, 2, 18, 3, 19,
                                        4, 20, 5, 21, 6, 22, 7, 23);
          high = __builtin_shufflevector((Bytes)four[2], (Bytes)four[3], 0, 16, 1, 17, 2, 18, 3, 19,
                                         4, 20, 5, 21, 6, 22, 7, 23);
        } else {
          low = __builtin_shufflevector((Bytes)four[0], (Bytes)four[1], 8, 24, 9, 25, 10, 26, 11, 27,
                                        12, 28, 13, 29, 14, 30, 15, 31);
          high = __builtin_shufflevector((Bytes)four[2], (Bytes)four[3], 8, 24, 9, 25, 10, 26, 11,
                                         27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        Words one = __builtin_shufflevector((Words)low, (Words)high, 0, 8, 1, 9, 2, 10, 3, 11);
        Words two = __builtin_shufflevector((Words)low, (Words)high, 4, 12, 5, 13, 6, 14, 7, 15);
        std::memcpy(to + half * 32, &one, 16);
        std::memcpy(to + half * 32 + 16, &two, 16);
      }
    }
}

// One image's attention: codes of query, key and value to codes of the projection's input.
void attend(const Block &block, Room &room, const uint8_t *qkv, uint8_t *out) {
  const long tokens = room.tokens, pitch = 3L * block.width;
  const int width = block.head_width;
  const Coder output(block.proj_input), probability(block.probability);
  const float log2_scale = block.scores_scale * 1.44269504088896341f; // softmax in powers of two
  // A code stands for itself plus its offset.
  const int32_t query_offset = block.query.lowest;
  const int32_t key_offset = block.key.lowest + block.key_middle;
  const int32_t value_offset = block.value.lowest + block.value_middle;
  for (int head = 0; head < block.heads; ++head) {
    const uint8_t *query = qkv + head * width;
    const uint8_t *key = query + block.width, *value = key + block.width;
    pack_keys(room, query, key, pitch, width, block.key_middle, query_offset);
    pack_values(room, value, pitch, width, block.value_middle);
    const int32_t fixed = width * query_offset * key_offset;
    for (long first = 0; first < tokens; first += ROWS) {
      long count = std::min<long>(ROWS, tokens - first);
      multiply(query + first * pitch, pitch, count, room.keys, width / 4, room.padded,
               block.scores_steps, [&](long row, long column, const int32_t *sums) {
                 Ints shared = all(room.query_sums[first + row] * key_offset + fixed);
                 for (int at = 0; at < COLUMNS; at += LANES) {
                   Ints codes = load(sums + at) + shared + load(room.key_offsets + column + at);
                   store(room.scores + row * room.padded + column + at,
                         as_floats(codes) * log2_scale);
                 }
               });
      int32_t p_sums[ROWS];
      uint8_t *probabilities = room.probabilities + first * room.padded;
      for (long row = 0; row < count; ++row) {
        float *scores = room.scores + row * room.padded;
        for (long at = tokens; at < room.padded; ++at) scores[at] = -1e30f;
        Floats most = load(scores);
        for (long at = LANES; at < room.padded; at += LANES) most = larger(most, load(scores + at));
        float peak = most[0];
        for (int lane = 1; lane < LANES; ++lane) peak = std::max(peak, most[lane]);
        Floats total{};
        for (long at = 0; at < room.padded; at += LANES) {
          Floats power = power_of_two(load(scores + at) - peak);
          store(scores + at, power);
          total += power; // of no token: 2^-126, which is lost
        }
        Floats share = all(1.0f / sum(total));
        uint8_t *to = probabilities + row * room.padded;
        Ints code_sums{};
        for (long at = 0; at < room.padded; at += COLUMNS) { // those of no token are 0
          Ints left = probability.codes(load(scores + at) * share);
          Ints right = probability.codes(load(scores + at + LANES) * share);
          store_bytes(to + at, left, right);
          code_sums += left + right;
        }
        p_sums[row] = sum(code_sums);
      }
      multiply(probabilities, room.padded, count, room.values, (int)(room.padded / 4), width,
               block.context_steps, [&](long row, long column, const int32_t *sums) {
                 Ints shared = all(p_sums[row] * value_offset);
                 uint8_t *to = out + (first + row) * block.width + head * width + column;
                 output.put(to, as_floats(load(sums) + shared) * block.context_scale,
                            as_floats(load(sums + LANES) + shared) * block.context_scale);
               });
    }
  }
}

// out(row, column, LANES outputs, the next LANES) of a linear layer on codes [rows, inputs].
template <class Out>
void apply(const Linear &layer, const uint8_t *codes, long rows, Out out) {
  multiply(codes, layer.inputs, rows, layer.weights, layer.inputs / 4, layer.outputs, layer.steps,
           [&](long row, long column, const int32_t *sums) {
             auto value = [&](int at) {
               Ints whole = load(sums + at) + load(layer.offsets + column + at);
               return as_floats(whole) * load(layer.scale + column + at) +
                      load(layer.bias + column + at);
             };
             out(row, column, value(0), value(LANES));
           });
}

// Adds a branch's output to the tokens.
void add(const Linear &layer, const uint8_t *codes, long rows, const float *scale,
         float *tokens) {
  apply(layer, codes, rows, [&](long row, long column, Floats left, Floats right) {
    float *to = tokens + row * layer.outputs + column;
    if (scale) {
      left = left * load(scale + column);
      right = right * load(scale + column + LANES);
    }
    store(to, load(to) + left);
    store(to + LANES, load(to + LANES) + right);
  });
}

void run_images(const Block &block, float *tokens, long images, Room &room) {
  const int width = block.width;
  normalize(tokens, room.rows, width, block.norm1_weight, block.norm1_bias, block.epsilon1,
            block.qkv_input, room.codes);
  const Coder coders[3] = {Coder(block.query), Coder(block.key), Coder(block.value)};
  const float before[3] = {block.query_scale, 1.0f, 1.0f};
  apply(block.qkv, room.codes, room.rows,
        [&](long row, long column, Floats left, Floats right) {
          int part = (int)(column / width);
          coders[part].put(room.qkv + row * 3 * width + column, left * before[part],
                           right * before[part]);
        });
  for (long image = 0; image < images; ++image)
    attend(block, room, room.qkv + image * room.tokens * 3 * width,
           room.codes + image * room.tokens * width);
  add(block.proj, room.codes, room.rows, block.branch1_scale, tokens);
  normalize(tokens, room.rows, width, block.norm2_weight, block.norm2_bias, block.epsilon2,
            block.fc1_input, room.codes);
  const Coder hidden(block.fc2_input);
  apply(block.fc1, room.codes, room.rows,
        [&](long row, long column, Floats left, Floats right) {
          hidden.put(room.hidden + row * block.hidden + column, gelu(left), gelu(right));
        });
  add(block.fc2, room.hidden, room.rows, block.branch2_scale, tokens);
}

} // namespace

extern "C" {

// Bytes of room that one thread needs for `group` images at a time.
long exitbits_room(const Block *block, long group, long tokens) {
  Room room;
  return room.lay(*block, group, tokens, nullptr);
}

// Runs a block in place on tokens [images, count, width]; `room` holds exitbits_room() bytes a
// thread. Threads take `group` images in turn.
void exitbits_run_block(const Block *block, float *tokens, long images, long count, long group,
                        int threads, char *room) {
  const long bytes = exitbits_room(block, group, count);
  // OpenMP's threads are torch's own: others would fight with them for the cores while they spin.
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long first = 0; first < images; first += group) {
    long some = std::min(group, images - first);
    Room mine;
    mine.lay(*block, some, count, room + omp_get_thread_num() * bytes);
    run_images(*block, tokens + first * count * block->width, some, mine);
  }
}

// Packs weights [outputs, inputs] into panels, and sums every output's weights.
void exitbits_pack(const int8_t *weights, int32_t outputs, int32_t inputs, int8_t *panels,
                   int32_t *sums) {
  for (int32_t output = 0; output < outputs; ++output) {
    int32_t total = 0;
    int8_t *panel = panels + (long)(output / COLUMNS) * inputs * COLUMNS + output % COLUMNS * 4;
    for (int32_t input = 0; input < inputs; ++input) {
      int8_t code = weights[(long)output * inputs + input];
      panel[input / 4 * 64 + input % 4] = code;
      total += code;
    }
    sums[output] = total;
  }
}
}
