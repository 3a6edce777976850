/* Causal attention of single rows over a cache of keys and values, with rotary positions, in float32.

A row is one token of one request: (slot, position). Its result depends on nothing but its own queries and the cache at
the positions up to its own: the same bits, whatever stands beside it in a step.

Keys lie in tiles of LANES positions, each [D][LANES], so that the scores of a tile need no sum across lanes; values lie
as they come, [position][D]. D must be a multiple of LANES. Heads: H of queries, KV of keys and values, G = H / KV. */

#include "vectors.h"

#define MOST_D 512
#define GROUP 4 /* query heads of a key head that go together: their sums stay in registers */

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

/* ``G`` query heads of one row over ``num`` keys; ``scores`` has room for G * (num rounded up to tiles). */
static inline __attribute__((always_inline)) void heads(
    const int G, const int parts, const float *queries, const float *keys, const float *values, float *out,
    float *scores, long num, float scale)
{
    const long D = parts * LANES, tiles = (num + LANES - 1) / LANES, past = tiles * LANES - num;
    vector most[GROUP], total[GROUP];
    for (int g = 0; g < G; g++)
        most[g] = all(-3.4e38f), total[g] = all(0);
    for (long t = 0; t < tiles; t++, keys += LANES * D) {
        vector even[GROUP], odd[GROUP];
        for (int g = 0; g < G; g++)
            even[g] = odd[g] = all(0);
        for (long d = 0; d < D; d += 2) {
            const vector first = *(const vector *)(keys + d * LANES), second = *(const vector *)(keys + (d + 1) * LANES);
#pragma GCC unroll 4
            for (int g = 0; g < G; g++) {
                even[g] += queries[g * D + d] * first;
                odd[g] += queries[g * D + d + 1] * second;
            }
        }
        for (int g = 0; g < G; g++) {
            vector score = (even[g] + odd[g]) * scale;
            if (t == tiles - 1)
                for (long i = LANES - past; i < LANES; i++)
                    score[i] = -3.4e38f;
            most[g] = choose(score > most[g], score, most[g]);
            *(vector *)(scores + (g * tiles + t) * LANES) = score;
        }
    }
    for (int g = 0; g < G; g++) {
        float largest = most[g][0];
        for (int i = 1; i < LANES; i++)
            largest = most[g][i] > largest ? most[g][i] : largest;
        for (long t = 0; t < tiles; t++) {
            vector *score = (vector *)(scores + (g * tiles + t) * LANES);
            *score = exponential(*score - largest);
            total[g] += *score;
        }
    }
    vector sums[GROUP][MOST_D / LANES];
    for (int g = 0; g < G; g++)
        for (int p = 0; p < parts; p++)
            sums[g][p] = all(0);
    for (long j = 0; j < num; j++, values += D)
#pragma GCC unroll 8
        for (int p = 0; p < parts; p++) {
            const vector value = *(const vector *)(values + p * LANES);
#pragma GCC unroll 4
            for (int g = 0; g < G; g++)
                sums[g][p] += scores[g * tiles * LANES + j] * value;
        }
    for (int g = 0; g < G; g++) {
        float whole = 0;
        for (int i = 0; i < LANES; i++)
            whole += total[g][i];
        for (int p = 0; p < parts; p++)
            *(vector *)(out + g * D + p * LANES) = sums[g][p] / whole;
    }
}

#define CALL(G, parts) heads(G, parts, queries, keys, values, out, scores, num, scale)
#define BY_GROUP(parts) \
    switch (G) { \
        case 1: CALL(1, parts); break; \
        case 2: CALL(2, parts); break; \
        case 3: CALL(3, parts); break; \
        default: CALL(4, parts); \
    }

static void some_heads(int G, int parts, const float *queries, const float *keys, const float *values, float *out,
                       float *scores, long num, float scale)
{
    switch (parts) {
        case 2: BY_GROUP(2) break;
        case 4: BY_GROUP(4) break;
        case 8: BY_GROUP(8) break;
        default: BY_GROUP(parts)
    }
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
                some_heads(G - g < GROUP ? G - g : GROUP, D / LANES, queries + head, keys + start, values + start,
                           out + head, scores, rows[2 * n + 1] + 1, scale);
            }
        }
}
