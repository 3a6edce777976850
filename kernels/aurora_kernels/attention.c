/* Causal attention of single rows over a cache of keys and values, with rotary positions, in float32.

A row is one token of one request: (slot, position). Its result depends on nothing but its own queries and the cache at
the positions up to its own: the same bits, whatever stands beside it in a step.

Keys lie in tiles of LANES positions, each [D][LANES], so that the scores of a tile need no sum across lanes; values lie
as they come, [position][D]. D must be a multiple of LANES. Heads: H of queries, KV of keys and values, G = H / KV. */

#include "vectors.h"

#define MOST_D 512
#define GROUP 4 /* query heads of a key head that go together, */
#define PARTS 4 /* and vectors of a value: their sums stay in registers */

/* x cos + roll(x, D/2) sin, where sin's first half is negative: Llama's half rotation. */
static void rotate(float *x, const float *cosine, const float *sine, long D)
{
    float turned[MOST_D];
    const long half = D / 2;
    for (long d = 0; d < half; d++) {
        turned[d] = x[d] * cosine[d] + x[d + half] * sine[d];
        turned[d + half] = x[d + half] * cosine[d + half] + x[d] * sine[d + half];
    }
    __builtin_memcpy(x, turned, D * sizeof(float));
}

/* Rotate the queries and keys of N rows [H + 2 KV][D] in place, and store keys and values at (slot, position). */
void attention_write(float *qkv, const int64_t *rows, float *keys, float *values, const float *cosine,
                     const float *sine, long N, long H, long KV, long D, long length)
{
    for (long n = 0; n < N; n++, qkv += (H + 2 * KV) * D) {
        const int64_t slot = rows[2 * n], position = rows[2 * n + 1];
        for (long h = 0; h < H + KV; h++)
            rotate(qkv + h * D, cosine + position * D, sine + position * D, D);
        for (long h = 0; h < KV; h++) {
            const float *key = qkv + (H + h) * D, *value = qkv + (H + KV + h) * D;
            const long start = (slot * KV + h) * length * D;
            float *tile = keys + start + position / LANES * LANES * D + position % LANES;
            for (long d = 0; d < D; d++)
                tile[d * LANES] = key[d];
            __builtin_memcpy(values + start + position * D, value, D * sizeof(float));
        }
    }
}

/* Queries . keys * scale of G heads, -> scores [G][tiles * LANES], those behind ``num`` far below all; the largest. */
static inline __attribute__((always_inline)) void score(
    const int G, const float *queries, const float *keys, float *scores, float *largest, long num, long D, float scale)
{
    const long tiles = (num + LANES - 1) / LANES;
    vector most[GROUP];
    for (int g = 0; g < G; g++)
        most[g] = all(-3.4e38f);
    for (long t = 0; t < tiles; t++, keys += LANES * D) {
        vector even[GROUP], odd[GROUP];
        for (int g = 0; g < G; g++)
            even[g] = odd[g] = all(0);
        for (long d = 0; d < D; d += 2) {
            const vector first = *(const vector *)(keys + d * LANES), second = *(const vector *)(keys + (d + 1) * LANES);
            for (int g = 0; g < G; g++) {
                even[g] += queries[g * D + d] * first;
                odd[g] += queries[g * D + d + 1] * second;
            }
        }
        for (int g = 0; g < G; g++) {
            float *to = scores + (g * tiles + t) * LANES;
            *(vector *)to = (even[g] + odd[g]) * scale;
            for (long i = num - t * LANES; i < LANES; i++)
                to[i] = -3.4e38f;
            most[g] = choose(*(vector *)to > most[g], *(vector *)to, most[g]);
        }
    }
    for (int g = 0; g < G; g++) {
        largest[g] = most[g][0];
        for (int i = 1; i < LANES; i++)
            largest[g] = most[g][i] > largest[g] ? most[g][i] : largest[g];
    }
}

/* The sum of e^(score - largest), which takes the score's place. */
static float soften(float *scores, float largest, long tiles)
{
    vector total = all(0);
    for (long t = 0; t < tiles; t++) {
        vector *at = (vector *)(scores + t * LANES);
        *at = exponential(*at - largest);
        total += *at;
    }
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += total[i];
    return sum;
}

/* ``parts`` vectors of the values, weighted by the scores of G heads and divided by their totals. */
static inline __attribute__((always_inline)) void weigh(
    const int G, const int parts, const float *scores, const float *totals, const float *values, float *out, long num,
    long tiles, long D)
{
    vector sums[GROUP][PARTS];
    for (int g = 0; g < G; g++)
        for (int p = 0; p < parts; p++)
            sums[g][p] = all(0);
    for (long j = 0; j < num; j++, values += D)
        for (int p = 0; p < parts; p++) {
            const vector value = *(const vector *)(values + p * LANES);
            for (int g = 0; g < G; g++)
                sums[g][p] += scores[g * tiles * LANES + j] * value;
        }
    for (int g = 0; g < G; g++)
        for (int p = 0; p < parts; p++)
            *(vector *)(out + g * D + p * LANES) = sums[g][p] / totals[g];
}

/* G query heads of one key head, of one row, over ``num`` keys. */
static inline __attribute__((always_inline)) void heads(
    const int G, const float *queries, const float *keys, const float *values, float *out, float *scores, long num,
    long D, float scale)
{
    const long tiles = (num + LANES - 1) / LANES;
    float largest[GROUP], totals[GROUP];
    score(G, queries, keys, scores, largest, num, D, scale);
    for (int g = 0; g < G; g++)
        totals[g] = soften(scores + g * tiles * LANES, largest[g], tiles);
    long d = 0;
    for (; d + PARTS * LANES <= D; d += PARTS * LANES)
        weigh(G, PARTS, scores, totals, values + d, out + d, num, tiles, D);
    for (; d < D; d += LANES)
        weigh(G, 1, scores, totals, values + d, out + d, num, tiles, D);
}

#define CASE(G) \
    case G: \
        heads(G, queries, keys, values, out, scores, num, D, scale); \
        break;

static void some_heads(long G, const float *queries, const float *keys, const float *values, float *out, float *scores,
                       long num, long D, float scale)
{
    switch (G) { CASE(1) CASE(2) CASE(3) CASE(4) }
}

/* [N][H][D] queries -> [N][H * D]; row n starts at ``queries + n * stride``, ``scores``: room for GROUP * length. */
void attention_read(const float *queries, long stride, const int64_t *rows, const float *keys, const float *values,
                    float *out, float *scores, long N, long H, long KV, long D, long length, float scale)
{
    const long G = H / KV;
    for (long n = 0; n < N; n++, queries += stride, out += H * D)
        for (long h = 0; h < KV; h++) {
            const long start = (rows[2 * n] * KV + h) * length * D;
            for (long g = 0; g < G; g += GROUP) {
                const long head = (h * G + g) * D;
                some_heads(G - g < GROUP ? G - g : GROUP, queries + head, keys + start, values + start, out + head,
                           scores, rows[2 * n + 1] + 1, D, scale);
            }
        }
}
