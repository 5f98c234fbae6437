/* The small operations of a step on a CPU, each in one pass over memory: what lies between the matrix products.
 *
 * Torch runs them as 45 operations a layer, each of which reads and writes its array and starts all threads. Numbers are
 * rounded where the modules that these replace round them, so that results agree to the last bit or nearly so.
 * Included once for each number format: `number` with `load` and `store`, and `NAME` for the functions' names.
 */
#ifndef number

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

#define number float
#define load load_f32
#define store store_f32
#define NAME(f) f##_float32
#include __FILE__
#undef number
#undef load
#undef store
#undef NAME

#define number uint16_t
#define load load_bf16
#define store store_bf16
#define NAME(f) f##_bfloat16
#include __FILE__

#else

/* Root mean square norm of rows [rows, size]. `plus_one`: the scale is 1 + weight and applied before rounding. */
void NAME(rms_norm)(const number *x, const number *weight, number *out, int64_t rows, int64_t size, float eps,
                    int64_t plus_one) {
#pragma omp parallel for schedule(static) if (rows * size > 4096)
  for (int64_t r = 0; r < rows; r++) {
    const number *in = x + r * size;
    number *to = out + r * size;
    float squares = 0;
    for (int64_t i = 0; i < size; i++) squares += load(in[i]) * load(in[i]);
    float scale = 1 / sqrtf(squares / size + eps);
    if (plus_one)
      for (int64_t i = 0; i < size; i++) to[i] = store(load(in[i]) * scale * (1 + load(weight[i])));
    else
      for (int64_t i = 0; i < size; i++) to[i] = store(load(weight[i]) * load(store(load(in[i]) * scale)));
  }
}

/* silu(gate) * up, of `size` numbers each. */
void NAME(silu_mul)(const number *gate, const number *up, number *out, int64_t size) {
#pragma omp parallel for simd schedule(static) if (size > 4096)
  for (int64_t i = 0; i < size; i++) {
    float g = load(gate[i]);
    out[i] = store(load(store(g / (1 + expf(-g)))) * load(up[i]));
  }
}

/* How `group` queries [group, size] weigh keys [length, size]: probabilities [group, length]. */
static inline void NAME(probabilities)(const float *restrict query, const number *restrict keys, float *restrict p,
                                       int64_t length, int64_t group, int64_t size) {
  for (int64_t l = 0; l < length; l++) {
    const number *key = keys + l * size;
    for (int64_t g = 0; g < group; g++) {
      float sum = 0;
      for (int64_t d = 0; d < size; d++) sum += query[g * size + d] * load(key[d]);
      p[g * length + l] = sum;
    }
  }
  for (int64_t g = 0; g < group; g++) {
    float *row = p + g * length, top = row[0], total = 0;
    for (int64_t l = 0; l < length; l++) top = fmaxf(top, row[l]);
    for (int64_t l = 0; l < length; l++) total += row[l] = expf(row[l] - top);
    float inverse = 1 / total;
    for (int64_t l = 0; l < length; l++) row[l] *= inverse;
  }
}

/* Probabilities [group, length] times values [length, size], added up in float32. */
static inline void NAME(mix)(const float *restrict p, const number *restrict values, float *restrict sum,
                             int64_t length, int64_t group, int64_t size) {
  memset(sum, 0, sizeof(float) * group * size);
  for (int64_t l = 0; l < length; l++) {
    const number *value = values + l * size;
    for (int64_t g = 0; g < group; g++)
      for (int64_t d = 0; d < size; d++) sum[g * size + d] += p[g * length + l] * load(value[d]);
  }
}

/* Ask for `count` numbers before they are needed: blocks are too short for the processor to see a pattern. */
static inline void NAME(fetch)(const number *x, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(number)) __builtin_prefetch(x + i, 0, 2);
}

/* One key/value head of one row; `next` are the keys that come after it. */
static inline void NAME(attend_head)(const number *q, int64_t q_stride, const number *keys, const number *values,
                                     const number *next, number *out, float *space, int64_t length, int64_t group,
                                     int64_t size, float scale) {
  float *query = space, *sum = space + group * size, *p = space + 2 * group * size;
  for (int64_t g = 0; g < group; g++)
    for (int64_t d = 0; d < size; d++) query[g * size + d] = load(q[g * q_stride + d]) * scale;
  NAME(fetch)(values, length * size);
  NAME(probabilities)(query, keys, p, length, group, size);
  NAME(fetch)(next, length * size);
  NAME(mix)(p, values, sum, length, group, size);
  for (int64_t i = 0; i < group * size; i++) out[i] = store(sum[i]);
}

/* One new token in each of `rows` slots of a cache [slots, heads, columns, size]: its key and value are written to
 * `column`, and its queries see the columns up to `position` (the last `window` of them, if that is not 0).
 * q [rows, heads * group, size], k and v [rows, heads, size], each with strides of row and head. Returns 0, or 1 when
 * there is no memory. */
int64_t NAME(attend)(const number *q, int64_t q_row, int64_t q_head, const number *k, int64_t k_row, int64_t k_head,
                     const number *v, int64_t v_row, int64_t v_head, number *keys, number *values,
                     const int64_t *column, const int64_t *position, number *out, int64_t rows, int64_t heads,
                     int64_t columns, int64_t group, int64_t size, int64_t window, float scale) {
  int64_t failed = 0;
#pragma omp parallel for schedule(static) reduction(| : failed)
  for (int64_t i = 0; i < rows * heads; i++) {
    int64_t r = i / heads, h = i % heads, end = position[r] + 1;
    int64_t begin = window && end > window ? end - window : 0, length = end - begin;
    number *key = keys + i * columns * size, *value = values + i * columns * size;
    memcpy(key + column[r] * size, k + r * k_row + h * k_head, size * sizeof(number));
    memcpy(value + column[r] * size, v + r * v_row + h * v_head, size * sizeof(number));
    float *space = malloc(sizeof(float) * group * (2 * size + length));
    if (!space) {
      failed = 1;
      continue;
    }
    const number *query = q + r * q_row + h * group * q_head;
    number *to = out + i * group * size;
    const number *next = i + 1 < rows * heads ? key + columns * size : key;
    key += begin * size, value += begin * size;
    /* The usual sizes are known to the compiler, which then keeps whole rows in registers. */
#define ATTEND(group, size) \
  NAME(attend_head)(query, q_head, key, value, next, to, space, length, group, size, scale)
    if (size == 64 && group == 3) ATTEND(3, 64);
    else if (size == 64) ATTEND(group, 64);
    else if (size == 128) ATTEND(group, 128);
    else ATTEND(group, size);
#undef ATTEND
    free(space);
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

#endif
