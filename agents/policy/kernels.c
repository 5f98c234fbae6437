/* The small operations of a step on a CPU, each in one pass over memory: what lies between the matrix products.
 *
 * Torch runs them as 45 operations a layer, each of which reads and writes its array and starts all threads. Numbers
 * are rounded where the modules that these replace round them, so that results agree to the last bit or nearly so.
 * Included once for each number format: `number` with `load` and `store`, and `NAME` for the functions' names.
 */
#ifndef number

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FAR 80.0f /* Beyond, exp is infinite, and a fast division by that is no number. */

enum { SMALL = 4096 }; /* Numbers for which starting the threads costs more than it saves. */

static inline float load_f32(float x) { return x; }
static inline float store_f32(float x) { return x; }

static inline float load_bf16(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float y;
  memcpy(&y, &bits, sizeof y);
  return y;
}

static inline uint16_t store_bf16(float x) { /* to nearest, ties to even */
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

enum { COLUMNS = 32, TILE = 64, CHUNK = 256 };

/* at::native::cpublas::brgemm: rows, columns, inner, three strides, whether to add, two factors, their product, and
 * whether the second one holds its rows in pairs. */
typedef void (*product)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, _Bool, const void *, const void *,
                        float *, _Bool);

/* A product for all rows, CHUNK at a time: so many lie in a cache near the processor while the weights pass by. `start`
 * is the first of them, `count` their number, `n` the block of weights. */
#define CHUNKED(blocks, call)                                                                           \
  for (int64_t start = 0; start < padded; start += CHUNK)                                               \
    for (int64_t n = 0; n < (blocks) / COLUMNS; n++) {                                                  \
      int64_t count = padded - start < CHUNK ? padded - start : CHUNK;                                  \
      call;                                                                                             \
    }

/* A linear layer [outer, inner]: blocks of COLUMNS outputs, [inner, COLUMNS] each; in bfloat16 with the rows of a block
 * in pairs, [inner / 2, COLUMNS, 2]. No bias: 0. */
typedef struct {
  const void *weight, *bias;
  int64_t inner, outer;
} matrix;

typedef struct {
  const void *first_norm, *second_norm, *q_norm, *k_norm; /* of heads: 0 where there is none */
  matrix qkv, out, gate, up, down;
  int64_t window;
  float scale;
} layer;

typedef struct {
  product multiply;
  void (*release)(_Bool); /* of what the products hold of a thread */
  int64_t layers, hidden, heads, group, size, plus_one;
  float eps;
} decoder;

/* For a test: whoever fills these from outside must lay them out alike. */
int64_t size_of_layer(void) { return sizeof(layer); }
int64_t size_of_decoder(void) { return sizeof(decoder); }

#ifdef __AVX512F__
/* Sixteen numbers, and what is done with them where a register holds that many. A row of numbers is read as pairs of
 * these, in whatever order is cheap: bfloat16 as its even and its odd elements, which takes two instructions. */
typedef float wide __attribute__((vector_size(64)));
typedef uint32_t bits __attribute__((vector_size(64)));
#ifdef __clang__
#define SHUFFLE __builtin_shufflevector
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (bits){__VA_ARGS__})
#endif
#define INLINE static inline __attribute__((always_inline))

INLINE void load_pair_f32(const float *x, wide *a, wide *b) {
  memcpy(a, x, sizeof *a);
  memcpy(b, x + 16, sizeof *b);
}

INLINE void store_pair_f32(float *x, wide a, wide b) {
  memcpy(x, &a, sizeof a);
  memcpy(x + 16, &b, sizeof b);
}

INLINE void load_pair_bf16(const uint16_t *x, wide *a, wide *b) {
  bits both;
  memcpy(&both, x, sizeof both);
  *a = (wide)(both << 16);
  *b = (wide)(both & 0xffff0000u);
}

INLINE void store_pair_bf16(uint16_t *x, wide a, wide b) {
  bits low = (bits)a, high = (bits)b;
  low = (low + 0x7fff + ((low >> 16) & 1)) >> 16;
  high = (high + 0x7fff + ((high >> 16) & 1)) & 0xffff0000u;
  low |= high;
  memcpy(x, &low, sizeof low);
}

#define FETCH(x) __builtin_prefetch(x, 0, 3)

/* Sums of sixteen vectors, each in its lane. */
INLINE wide sums(wide *x) {
  for (int j = 0; j < 8; j++)
    x[j] = SHUFFLE(x[j], x[j + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           SHUFFLE(x[j], x[j + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  for (int j = 0; j < 4; j++)
    x[j] = SHUFFLE(x[j], x[j + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
           SHUFFLE(x[j], x[j + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  for (int j = 0; j < 2; j++)
    x[j] = SHUFFLE(x[j], x[j + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           SHUFFLE(x[j], x[j + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  return SHUFFLE(x[0], x[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
         SHUFFLE(x[0], x[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}
#endif

#define number float
#define load_pair load_pair_f32
#define store_pair store_pair_f32
#define load load_f32
#define store store_f32
#define NAME(f) f##_float32
#include __FILE__
#undef number
#undef load_pair
#undef store_pair
#undef load
#undef store
#undef NAME

#define number uint16_t
#define load_pair load_pair_bf16
#define store_pair store_pair_bf16
#define load load_bf16
#define store store_bf16
#define NAME(f) f##_bfloat16
#include __FILE__

#else

/* One row of a root mean square norm. `plus_one`: the scale is 1 + weight and applied before rounding. */
static inline void NAME(norm_row)(const number *in, const number *weight, number *to, int64_t size, float eps,
                                  int64_t plus_one) {
  float squares = 0;
  for (int64_t i = 0; i < size; i++) squares += load(in[i]) * load(in[i]);
  float scale = 1 / sqrtf(squares / size + eps);
  if (plus_one)
    for (int64_t i = 0; i < size; i++) to[i] = store(load(in[i]) * scale * (1 + load(weight[i])));
  else
    for (int64_t i = 0; i < size; i++) to[i] = store(load(weight[i]) * load(store(load(in[i]) * scale)));
}

/* x + y of `size` numbers each; `to` may be one of them. */
static inline void NAME(add)(const number *x, const number *y, number *to, int64_t size) {
  for (int64_t i = 0; i < size; i++) to[i] = store(load(x[i]) + load(y[i]));
}

/* Root mean square norm of rows [rows, size]. */
void NAME(rms_norm)(const number *x, const number *weight, number *out, int64_t rows, int64_t size, float eps,
                    int64_t plus_one) {
#pragma omp parallel for schedule(static) if (rows * size > SMALL)
  for (int64_t r = 0; r < rows; r++) NAME(norm_row)(x + r * size, weight, out + r * size, size, eps, plus_one);
}

/* sum = x + y, and the norm of it. */
void NAME(add_rms_norm)(const number *x, const number *y, const number *weight, number *sum, number *out, int64_t rows,
                        int64_t size, float eps, int64_t plus_one) {
#pragma omp parallel for schedule(static) if (rows * size > SMALL)
  for (int64_t r = 0; r < rows; r++) {
    number *to = sum + r * size;
    NAME(add)(x + r * size, y + r * size, to, size);
    NAME(norm_row)(to, weight, out + r * size, size, eps, plus_one);
  }
}

/* What a change of the norm's output means for its input, plus `change` if there is one; and, if wanted, for its
 * weight, as a sum over its own rows for each of `threads`, so that the whole sum has one order: by_weight [threads,
 * size], of zeros. */
void NAME(rms_norm_backward)(const number *x, const number *weight, const number *by_out, const number *change,
                             number *by_x, float *by_weight, int64_t rows, int64_t size, float eps, int64_t plus_one,
                             int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t t = 0; t < threads; t++) {
    float *own = by_weight ? by_weight + t * size : 0;
    for (int64_t r = rows * t / threads; r < rows * (t + 1) / threads; r++) {
      const number *in = x + r * size, *by = by_out + r * size;
      float squares = 0, along = 0;
      for (int64_t i = 0; i < size; i++) {
        squares += load(in[i]) * load(in[i]);
        along += load(by[i]) * (plus_one + load(weight[i])) * load(in[i]);
      }
      float scale = 1 / sqrtf(squares / size + eps), shrink = along * scale * scale / size;
      for (int64_t i = 0; i < size; i++) {
        float slope = load(by[i]) * (plus_one + load(weight[i])) - load(in[i]) * shrink;
        by_x[r * size + i] = store(slope * scale + (change ? load(change[r * size + i]) : 0));
        if (own) own[i] += load(by[i]) * load(in[i]) * scale;
      }
    }
  }
}

/* From a packed row x [tokens, heads, size] to padded sequences [rows, heads, columns, size]: `index` [rows, columns]
 * says which token stands where, and nothing (0) stands where it is negative. */
void NAME(spread)(const number *x, int64_t x_row, const int64_t *index, number *out, int64_t rows, int64_t heads,
                  int64_t columns, int64_t size) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows * heads; i++) {
    const int64_t *from = index + i / heads * columns;
    number *to = out + i * columns * size;
    for (int64_t c = 0; c < columns; c++, to += size)
      if (from[c] < 0) memset(to, 0, size * sizeof(number));
      else memcpy(to, x + from[c] * x_row + i % heads * size, size * sizeof(number));
  }
}

/* And back: the sum of what stands in each token's places, place[start[t]] to place[start[t + 1] - 1], each a number of
 * row and column. Tokens without one are left alone. */
void NAME(collect)(const number *x, const int64_t *start, const int64_t *place, number *out, int64_t tokens,
                   int64_t heads, int64_t columns, int64_t size) {
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t h = 0; h < heads; h++) {
      number *to = out + (t * heads + h) * size;
      const int64_t first = start[t], end = start[t + 1];
#define AT(p) (x + ((place[p] / columns * heads + h) * columns + place[p] % columns) * size)
      if (end == first + 1) memcpy(to, AT(first), size * sizeof(number));
      if (end <= first + 1) continue;
      for (int64_t d = 0; d < size; d += 16) {
        float sum[16] = {0};
        int64_t n = size - d < 16 ? size - d : 16;
        for (int64_t p = first; p < end; p++) {
          const number *from = AT(p) + d;
          for (int64_t i = 0; i < n; i++) sum[i] += load(from[i]);
        }
        for (int64_t i = 0; i < n; i++) to[d + i] = store(sum[i]);
      }
#undef AT
    }
}

/* silu(gate) * up, of `size` numbers each. */
void NAME(silu_mul)(const number *gate, const number *up, number *out, int64_t size) {
#pragma omp parallel for simd schedule(static) if (size > SMALL)
  for (int64_t i = 0; i < size; i++) {
    float g = load(gate[i]);
    out[i] = store(load(store(g / (1 + expf(fminf(-g, FAR))))) * load(up[i]));
  }
}

/* What a change of silu(gate) * up means for both. */
void NAME(silu_mul_backward)(const number *gate, const number *up, const number *by_out, number *by_gate,
                             number *by_up, int64_t size) {
#pragma omp parallel for simd schedule(static) if (size > SMALL)
  for (int64_t i = 0; i < size; i++) {
    float g = load(gate[i]), by = load(by_out[i]), sigmoid = 1 / (1 + expf(fminf(-g, FAR)));
    by_up[i] = store(by * g * sigmoid);
    by_gate[i] = store(by * load(up[i]) * sigmoid * (1 + g * (1 - sigmoid)));
  }
}

/* Rotary positions of one head, in place; `back` is the transposed turn, that of a gradient. */
static inline void NAME(turn)(number *x, const number *cosine, const number *sine, int64_t half, int64_t back) {
  const number *down = back ? sine + half : sine, *up = back ? sine : sine + half;
  float sign = back ? -1 : 1;
#pragma omp simd
  for (int64_t i = 0; i < half; i++) {
    float a = load(x[i]), b = load(x[i + half]);
    x[i] = store(load(store(a * load(cosine[i]))) - load(store(b * sign * load(down[i]))));
    x[i + half] = store(load(store(b * load(cosine[i + half]))) + load(store(a * sign * load(up[i]))));
  }
}

/* x [rows, heads, size] turned by the angles whose cosines and sines are [rows, size]. */
void NAME(rotate)(const number *x, int64_t x_row, const number *cosine, const number *sine, number *out, int64_t rows,
                  int64_t heads, int64_t size, int64_t back) {
#pragma omp parallel for schedule(static) if (rows * heads * size > SMALL)
  for (int64_t r = 0; r < rows; r++) {
    number *to = out + r * heads * size;
    memcpy(to, x + r * x_row, heads * size * sizeof(number));
    for (int64_t h = 0; h < heads; h++)
      NAME(turn)(to + h * size, cosine + r * size, sine + r * size, size / 2, back);
  }
}

/* Scores [group, length], a row every `stride` numbers, to probabilities. */
static inline void NAME(softmax)(float *restrict p, int64_t length, int64_t stride, int64_t group) {
  for (int64_t g = 0; g < group; g++) {
    float *row = p + g * stride, top = row[0], total = 0;
    for (int64_t l = 0; l < length; l++) top = fmaxf(top, row[l]);
    for (int64_t l = 0; l < length; l++) total += row[l] = expf(row[l] - top);
    float inverse = 1 / total;
    for (int64_t l = 0; l < length; l++) row[l] *= inverse;
  }
}

/* One key/value head of one row: `group` queries over `length` keys and values, of any `size`. Added up in float32. */
static inline void NAME(attend_head)(const number *q, int64_t q_stride, const number *keys, const number *values,
                                     number *out, float *restrict space, int64_t length, int64_t stride, int64_t group,
                                     int64_t size, float scale) {
  float *restrict query = space, *restrict sum = space + group * size, *restrict p = space + 2 * group * size;
  for (int64_t g = 0; g < group; g++)
    for (int64_t d = 0; d < size; d++) query[g * size + d] = load(q[g * q_stride + d]) * scale;
  for (int64_t l = 0; l < length; l++)
    for (int64_t g = 0; g < group; g++) {
      float score = 0;
      for (int64_t d = 0; d < size; d++) score += query[g * size + d] * load(keys[l * size + d]);
      p[g * stride + l] = score;
    }
  NAME(softmax)(p, length, stride, group);
  memset(sum, 0, sizeof(float) * group * size);
  for (int64_t l = 0; l < length; l++)
    for (int64_t g = 0; g < group; g++)
      for (int64_t d = 0; d < size; d++) sum[g * size + d] += p[g * stride + l] * load(values[l * size + d]);
  for (int64_t i = 0; i < group * size; i++) out[i] = store(sum[i]);
}

#ifdef __AVX512F__
/* The same for sizes that the compiler knows: queries and sums stay in registers, sixteen keys are added up at once.
 * Values are asked for while keys are read, and the keys that come `next` while values are: blocks are too short for
 * the processor to see a pattern. */
INLINE void NAME(attend_head_wide)(const number *q, int64_t q_stride, const number *keys, const number *values,
                                   const number *next, number *out, float *restrict p, int64_t length, int64_t stride,
                                   const int group, const int size, float scale) {
  wide query[4][8], sum[4][8];
  for (int g = 0; g < group; g++)
    for (int d = 0; d < size / 16; d += 2) {
      load_pair(q + g * q_stride + d * 16, &query[g][d], &query[g][d + 1]);
      query[g][d] *= scale, query[g][d + 1] *= scale;
      sum[g][d] = sum[g][d + 1] = (wide){0};
    }
  for (int64_t start = 0; start < length; start += 16) {
    wide part[4][16];
    for (int j = 0; j < 16; j++) {
      const number *key = keys + (start + j < length ? start + j : start) * size; /* what is too many is not read */
      for (int g = 0; g < group; g++) part[g][j] = (wide){0};
      for (int d = 0; d < size / 16; d += 2) {
        wide a, b;
        FETCH(values + (key - keys) + d * 16);
        load_pair(key + d * 16, &a, &b);
        for (int g = 0; g < group; g++) part[g][j] += query[g][d] * a + query[g][d + 1] * b;
      }
    }
    for (int g = 0; g < group; g++) {
      wide scores = sums(part[g]);
      memcpy(p + g * stride + start, &scores, sizeof scores);
    }
  }
  NAME(softmax)(p, length, stride, group);
  for (int64_t l = 0; l < length; l++)
    for (int d = 0; d < size / 16; d += 2) {
      wide a, b;
      FETCH(next + l * size + d * 16);
      load_pair(values + l * size + d * 16, &a, &b);
      for (int g = 0; g < group; g++) sum[g][d] += p[g * stride + l] * a, sum[g][d + 1] += p[g * stride + l] * b;
    }
  for (int g = 0; g < group; g++)
    for (int d = 0; d < size / 16; d += 2) store_pair(out + g * size + d * 16, sum[g][d], sum[g][d + 1]);
}
#endif

/* The queries of one token on one key/value head: they see the columns up to `position` (the last `window` of them, if
 * that is not 0). At most four at a time, so that they stay in registers. Returns 0, or 1 when there is no memory. */
static int64_t NAME(attend_next)(const number *q, int64_t q_head, const number *keys, const number *values,
                                 const number *next, int64_t position, number *out, int64_t group, int64_t size,
                                 int64_t window, float scale) {
  int64_t end = position + 1, begin = window && end > window ? end - window : 0;
  int64_t length = end - begin, stride = (length + 15) / 16 * 16;
  float *space = malloc(sizeof(float) * 4 * (2 * size + stride));
  if (!space) return 1;
  keys += begin * size, values += begin * size, next += begin * size;
  for (int64_t first = 0; first < group; first += 4, q += 4 * q_head, out += 4 * size) {
    int64_t count = group - first < 4 ? group - first : 4;
#ifdef __AVX512F__
#define ATTEND(g, s)                                                                                    \
  if (count == (g) && size == (s)) {                                                                    \
    NAME(attend_head_wide)(q, q_head, keys, values, next, out, space, length, stride, g, s, scale);     \
  } else
    ATTEND(1, 64) ATTEND(2, 64) ATTEND(3, 64) ATTEND(4, 64)
    ATTEND(1, 128) ATTEND(2, 128) ATTEND(3, 128) ATTEND(4, 128)
#undef ATTEND
#endif
    NAME(attend_head)(q, q_head, keys, values, out, space, length, stride, count, size, scale);
  }
  free(space);
  return 0;
}

/* One new token in each of `rows` slots of a cache [slots, heads, columns, size]. q [rows, heads * group, size], k and
 * v [rows, heads, size], each with strides of row and head. Returns 0, or 1 when there is no memory. */
int64_t NAME(attend)(const number *q, int64_t q_row, int64_t q_head, const number *k, int64_t k_row, int64_t k_head,
                     const number *v, int64_t v_row, int64_t v_head, number *keys, number *values,
                     const int64_t *column, const int64_t *position, number *out, int64_t rows, int64_t heads,
                     int64_t columns, int64_t group, int64_t size, int64_t window, float scale) {
  int64_t failed = 0, block = columns * size;
#pragma omp parallel for schedule(static) reduction(| : failed)
  for (int64_t i = 0; i < rows * heads; i++) {
    int64_t r = i / heads, h = i % heads, at = i * block + column[r] * size;
    memcpy(keys + at, k + r * k_row + h * k_head, size * sizeof(number));
    memcpy(values + at, v + r * v_row + h * v_head, size * sizeof(number));
    failed |= NAME(attend_next)(q + r * q_row + h * group * q_head, q_head, keys + i * block, values + i * block,
                                keys + (i + 1 < rows * heads ? i + 1 : i) * block, position[r],
                                out + i * group * size, group, size, window, scale);
  }
  return failed;
}

/* A tile of COLUMNS outputs of a linear layer for at most TILE rows: x [rows, inner], a row every `stride`, times block
 * n of its packed weights, plus the bias; in float32. The product is torch's own, of one thread. */
static inline void NAME(tile)(product multiply, const number *x, int64_t stride, const matrix *w, int64_t n,
                              int64_t rows, float *out) {
  const number *block = (const number *)w->weight + n * w->inner * COLUMNS;
  multiply(rows, COLUMNS, w->inner, stride, COLUMNS, COLUMNS, 0, x, block, out, sizeof(number) == 2);
  if (w->bias)
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < COLUMNS; i++) out[r * COLUMNS + i] += load(((const number *)w->bias)[n * COLUMNS + i]);
}

/* Block n of a linear layer, all of these rows. */
static inline void NAME(block)(product multiply, const number *x, int64_t stride, const matrix *w, int64_t n,
                               int64_t rows, number *out) {
  float sums[TILE * COLUMNS];
  for (int64_t start = 0; start < rows; start += TILE) {
    int64_t count = rows - start < TILE ? rows - start : TILE;
    NAME(tile)(multiply, x + start * stride, stride, w, n, count, sums);
    for (int64_t r = 0; r < count; r++)
      for (int64_t i = 0; i < COLUMNS; i++)
        out[(start + r) * w->outer + n * COLUMNS + i] = store(sums[r * COLUMNS + i]);
  }
}

/* Block n of silu(gate x) * (up x), all of these rows. */
static inline void NAME(gated_block)(product multiply, const number *x, const matrix *gate, const matrix *up, int64_t n,
                                     int64_t rows, number *out) {
  float left[TILE * COLUMNS], right[TILE * COLUMNS];
  for (int64_t start = 0; start < rows; start += TILE) {
    int64_t count = rows - start < TILE ? rows - start : TILE;
    NAME(tile)(multiply, x + start * gate->inner, gate->inner, gate, n, count, left);
    NAME(tile)(multiply, x + start * up->inner, up->inner, up, n, count, right);
    for (int64_t r = 0; r < count; r++)
      for (int64_t i = 0; i < COLUMNS; i++) {
        float g = load(store(left[r * COLUMNS + i])), u = load(store(right[r * COLUMNS + i]));
        out[(start + r) * gate->outer + n * COLUMNS + i] = store(load(store(g / (1 + expf(fminf(-g, FAR))))) * u);
      }
  }
}

/* All layers of a decoder for `rows` new tokens, any number for each slot of a cache [layers, 2, slots, heads, columns,
 * size]: x [rows, hidden] comes in and goes out; cosine and sine are [rows, size]. Token r is written to its slot's
 * `column` and sees the columns up to `position`. The threads start once and meet between stages. `space` holds h, y,
 * qkv, seen and inner, `padded` rows of each: products are made for that many, a round number. Returns 0, or 1 when
 * there is no memory. */
int64_t NAME(decode)(const decoder *d, const layer *layers, number *x, const number *cosine, const number *sine,
                     number *cache, const int64_t *slot, const int64_t *column, const int64_t *position, number *space,
                     int64_t rows, int64_t padded, int64_t slots, int64_t columns) {
  int64_t failed = 0, size = d->size, heads = d->heads, group = d->group, hidden = d->hidden;
  int64_t block = columns * size, part = slots * heads * block;
  number *h = space, *y = h + padded * hidden, *qkv = y + padded * layers->out.outer;
  number *seen = qkv + padded * layers->qkv.outer, *inner = seen + padded * heads * group * size;
#pragma omp parallel reduction(| : failed)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++)
      NAME(norm_row)(x + r * hidden, layers->first_norm, h + r * hidden, hidden, d->eps, d->plus_one);
    for (int64_t l = 0; l < d->layers; l++) {
      const layer *w = layers + l;
      number *keys = cache + 2 * l * part, *values = keys + part;
#pragma omp for collapse(2) schedule(static)
      CHUNKED(w->qkv.outer, NAME(block)(d->multiply, h + start * hidden, hidden, &w->qkv, n, count,
                                        qkv + start * w->qkv.outer))
#pragma omp for schedule(static)
      for (int64_t i = 0; i < rows * heads; i++) {
        int64_t r = i / heads, head = i % heads, at = (slot[r] * heads + head) * block + column[r] * size;
        number *q = qkv + r * w->qkv.outer + head * group * size;
        number *k = qkv + r * w->qkv.outer + (heads * group + head) * size, *v = k + heads * size;
        for (int64_t g = 0; g < group; g++) {
          if (w->q_norm) NAME(norm_row)(q + g * size, w->q_norm, q + g * size, size, d->eps, d->plus_one);
          NAME(turn)(q + g * size, cosine + r * size, sine + r * size, size / 2, 0);
        }
        if (w->k_norm) NAME(norm_row)(k, w->k_norm, k, size, d->eps, d->plus_one);
        NAME(turn)(k, cosine + r * size, sine + r * size, size / 2, 0);
        memcpy(keys + at, k, size * sizeof(number));
        memcpy(values + at, v, size * sizeof(number));
      }
#pragma omp for schedule(static)
      for (int64_t i = 0; i < rows * heads; i++) { /* behind all keys and values: tokens of a slot see each other */
        int64_t r = i / heads, head = i % heads, here = (slot[r] * heads + head) * block;
        int64_t after = i + 1 < rows * heads ? (slot[(i + 1) / heads] * heads + (i + 1) % heads) * block : here;
        failed |= NAME(attend_next)(qkv + r * w->qkv.outer + head * group * size, size, keys + here, values + here,
                                    keys + after, position[r], seen + i * group * size, group, size, w->window,
                                    w->scale);
      }
#pragma omp for collapse(2) schedule(static)
      CHUNKED(w->out.outer, NAME(block)(d->multiply, seen + start * w->out.inner, w->out.inner, &w->out, n, count,
                                        y + start * w->out.outer))
#pragma omp for schedule(static)
      for (int64_t r = 0; r < rows; r++) {
        number *row = x + r * hidden;
        NAME(add)(row, y + r * w->out.outer, row, hidden);
        NAME(norm_row)(row, w->second_norm, h + r * hidden, hidden, d->eps, d->plus_one);
      }
#pragma omp for collapse(2) schedule(static)
      CHUNKED(w->gate.outer, NAME(gated_block)(d->multiply, h + start * hidden, &w->gate, &w->up, n, count,
                                               inner + start * w->gate.outer))
#pragma omp for collapse(2) schedule(static)
      CHUNKED(w->down.outer, NAME(block)(d->multiply, inner + start * w->gate.outer, w->gate.outer, &w->down, n, count,
                                         y + start * w->down.outer))
#pragma omp for schedule(static)
      for (int64_t r = 0; r < rows; r++) {
        number *row = x + r * hidden;
        NAME(add)(row, y + r * w->out.outer, row, hidden);
        if (l + 1 < d->layers)
          NAME(norm_row)(row, w[1].first_norm, h + r * hidden, hidden, d->eps, d->plus_one);
      }
    }
    d->release(sizeof(number) == 2);
  }
  return failed;
}

/* A token for each row of logits [rows, size], the inverse of the cumulative distribution at `uniform`, and its
 * log-probability. Two levels, as in sampling.py: sums of blocks, then the tokens of the block that holds the point. */
int64_t NAME(draw)(const number *logits, int64_t stride, const double *uniform, int64_t *token, float *logprob,
                   int64_t rows, int64_t size, float temperature) {
  enum { BLOCK = 256 };
  int64_t failed = 0, blocks = (size + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) reduction(| : failed)
  for (int64_t r = 0; r < rows; r++) {
    const number *z = logits + r * stride;
    double *sum = malloc(sizeof(double) * blocks), total = 0, below = 0;
    if (!sum) {
      failed = 1;
      continue;
    }
    float top = load(z[0]), inverse = 1 / temperature;
    for (int64_t i = 0; i < size; i++) top = fmaxf(top, load(z[i]));
    for (int64_t b = 0; b < blocks; b++) {
      int64_t end = b + 1 < blocks ? (b + 1) * BLOCK : size;
      float mass = 0;
      for (int64_t i = b * BLOCK; i < end; i++) mass += expf((load(z[i]) - top) * inverse);
      total += sum[b] = mass;
    }
    double point = uniform[r] * total;
    int64_t block = 0, chosen = 0, last;
    while (block + 1 < blocks && below + sum[block] <= point) below += sum[block++];
    while (block > 0 && sum[block] == 0) below -= sum[--block]; /* rounding: there is no mass left */
    last = block + 1 < blocks ? (block + 1) * BLOCK : size;
    for (int64_t i = block * BLOCK; i < last; i++) {
      float mass = expf((load(z[i]) - top) * inverse);
      if (mass > 0) chosen = i; /* never one without mass */
      below += mass;
      if (mass > 0 && below > point) break;
    }
    token[r] = chosen;
    logprob[r] = (load(z[chosen]) - top) * inverse - log(total);
    free(sum);
  }
  return failed;
}

/* Log-probability of each row's target under logits [rows, size] / temperature, and the logarithm of what those sum up
 * to. Float32 within a block, float64 beyond. */
void NAME(score)(const number *logits, int64_t stride, const int64_t *target, float *logprob, float *total,
                 int64_t rows, int64_t size, float temperature) {
  enum { BLOCK = 256 };
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    const number *z = logits + r * stride;
    float top = load(z[0]), inverse = 1 / temperature;
    double sum = 0;
    for (int64_t i = 0; i < size; i++) top = fmaxf(top, load(z[i]));
    for (int64_t start = 0; start < size; start += BLOCK) {
      int64_t end = start + BLOCK < size ? start + BLOCK : size;
      float mass = 0;
      for (int64_t i = start; i < end; i++) mass += expf((load(z[i]) - top) * inverse);
      sum += mass;
    }
    float spread = log(sum);
    logprob[r] = (load(z[target[r]]) - top) * inverse - spread;
    total[r] = top * inverse + spread;
  }
}

/* What changes of those log-probabilities mean for the logits: change * (onehot(target) - p) / temperature. */
void NAME(score_backward)(const number *logits, int64_t stride, const int64_t *target, const float *total,
                          const float *change, number *by_logits, int64_t rows, int64_t size, float temperature) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    const number *z = logits + r * stride;
    number *restrict to = by_logits + r * size;
    float inverse = 1 / temperature, slope = change[r] * inverse, sum = total[r];
    for (int64_t i = 0; i < size; i++) to[i] = store(-slope * expf(load(z[i]) * inverse - sum));
    int64_t t = target[r];
    to[t] = store(slope * (1 - expf(load(z[t]) * inverse - sum)));
  }
}

#endif
