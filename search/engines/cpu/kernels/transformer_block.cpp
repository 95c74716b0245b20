// A quantized transformer block on integer codes, for CPUs.
//
// Activations are unsigned codes, less their zero point the values of the reference engine; the
// right operand of every product is signed. What lies between two products (dequantization, softmax,
// GELU, the next quantization) happens while the numbers are in registers, and an image or a few
// stay in the cache from the block's first layer to its last.

#include <cmath>
#include <type_traits>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "products.h"

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

inline int thread_number() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0; // a compiler without OpenMP: what it would share out runs in turn
#endif
}

typedef int8_t Signed __attribute__((vector_size(16), aligned(1)));

inline long round_up(long value, long to) { return (value + to - 1) / to * to; }

// What turns values into codes, in vectors.
struct Coder {
  Floats inverse, low, high;
  Ints zero;
  explicit Coder(Levels levels)
      : inverse(all(levels.inverse)), low(all((float)levels.lowest + ROOM)),
        high(all((float)levels.highest + ROOM)), zero(bits_of(low)) {}
  // Added to ROOM, a value is rounded and lies in the last bits.
  Ints codes(Floats value) const {
    return bits_of(smaller(larger(value * inverse + ROOM, low), high)) - zero;
  }
  void put(uint8_t *to, Floats value) const { store_bytes(to, codes(value)); }
};

// Codes of layer-normalized rows. Mean and variance in two passes, as LayerNorm is defined.
void normalize(const float *rows, long count, int width, const float *weight, const float *bias,
               float epsilon, Levels levels, uint8_t *codes) {
  const Coder coder(levels);
  for (long row = 0; row < count; ++row) {
    const float *from = rows + row * width;
    Floats total{};
    for (int at = 0; at < width; at += COLUMNS) total += load(from + at);
    Floats mean = all(sum(total) / width), squares{};
    for (int at = 0; at < width; at += COLUMNS) {
      Floats off = load(from + at) - mean;
      squares += off * off;
    }
    Floats factor = all(1.0f / std::sqrt(sum(squares) / width + epsilon));
    auto value = [&](int at) {
      return (load(from + at) - mean) * factor * load(weight + at) + load(bias + at);
    };
    for (int at = 0; at < width; at += COLUMNS)
      coder.put(codes + row * width + at, value(at));
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
                 Ints codes = load(sums) + shared + load(room.key_offsets + column);
                 store(room.scores + row * room.padded + column, as_floats(codes) * log2_scale);
               });
      int32_t p_sums[ROWS];
      uint8_t *probabilities = room.probabilities + first * room.padded;
      for (long row = 0; row < count; ++row) {
        float *scores = room.scores + row * room.padded;
        for (long at = tokens; at < room.padded; ++at) scores[at] = -1e30f;
        Floats most = load(scores);
        for (long at = COLUMNS; at < room.padded; at += COLUMNS) most = larger(most, load(scores + at));
        float peak = largest(most);
        Floats total{};
        for (long at = 0; at < room.padded; at += COLUMNS) {
          Floats power = power_of_two(load(scores + at) - peak);
          store(scores + at, power);
          total += power; // of no token: 2^-126, which is lost
        }
        Floats share = all(1.0f / sum(total));
        uint8_t *to = probabilities + row * room.padded;
        Ints code_sums{};
        for (long at = 0; at < room.padded; at += COLUMNS) { // those of no token are 0
          Ints codes = probability.codes(load(scores + at) * share);
          store_bytes(to + at, codes);
          code_sums += codes;
        }
        p_sums[row] = sum(code_sums);
      }
      multiply(probabilities, room.padded, count, room.values, (int)(room.padded / 4), width,
               block.context_steps, [&](long row, long column, const int32_t *sums) {
                 Ints shared = all(p_sums[row] * value_offset);
                 uint8_t *to = out + (first + row) * block.width + head * width + column;
                 output.put(to, as_floats(load(sums) + shared) * block.context_scale);
               });
    }
  }
}

// out(row, column, COLUMNS outputs) of a linear layer on codes [rows, inputs].
template <class Out>
void apply(const Linear &layer, const uint8_t *codes, long rows, Out out) {
  multiply(codes, layer.inputs, rows, layer.weights, layer.inputs / 4, layer.outputs, layer.steps,
           [&](long row, long column, const int32_t *sums) {
             Ints whole = load(sums) + load(layer.offsets + column);
             out(row, column,
                 as_floats(whole) * load(layer.scale + column) + load(layer.bias + column));
           });
}

// Adds a branch's output to the tokens.
void add(const Linear &layer, const uint8_t *codes, long rows, const float *scale,
         float *tokens) {
  apply(layer, codes, rows, [&](long row, long column, Floats value) {
    float *to = tokens + row * layer.outputs + column;
    if (scale) value = value * load(scale + column);
    store(to, load(to) + value);
  });
}

void run_images(const Block &block, float *tokens, long images, Room &room) {
  const int width = block.width;
  normalize(tokens, room.rows, width, block.norm1_weight, block.norm1_bias, block.epsilon1,
            block.qkv_input, room.codes);
  const Coder coders[3] = {Coder(block.query), Coder(block.key), Coder(block.value)};
  const float before[3] = {block.query_scale, 1.0f, 1.0f};
  apply(block.qkv, room.codes, room.rows,
        [&](long row, long column, Floats value) {
          int part = (int)(column / width);
          coders[part].put(room.qkv + row * 3 * width + column, value * before[part]);
        });
  for (long image = 0; image < images; ++image)
    attend(block, room, room.qkv + image * room.tokens * 3 * width,
           room.codes + image * room.tokens * width);
  add(block.proj, room.codes, room.rows, block.branch1_scale, tokens);
  normalize(tokens, room.rows, width, block.norm2_weight, block.norm2_bias, block.epsilon2,
            block.fc1_input, room.codes);
  const Coder hidden(block.fc2_input);
  apply(block.fc1, room.codes, room.rows,
        [&](long row, long column, Floats value) {
          hidden.put(room.hidden + row * block.hidden + column, gelu(value));
        });
  add(block.fc2, room.hidden, room.rows, block.branch2_scale, tokens);
}

} // namespace

extern "C" {

// How the structures lie in memory, for whoever fills them.
long exitbits_size_of_levels() { return sizeof(Levels); }
long exitbits_size_of_linear() { return sizeof(Linear); }
long exitbits_size_of_block() { return sizeof(Block); }

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
    mine.lay(*block, some, count, room + thread_number() * bytes);
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
