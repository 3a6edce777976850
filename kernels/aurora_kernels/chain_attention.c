/* Softmax of a draft's training attention, forwards and backwards: causal over the first pass, whole over the chain.

   A row is one query of a base: [B, kv heads, group, n bases]. It sees the first ``base + 1`` of L keys, whose dot
   products are given, and one key for each of the ``c`` earlier steps of its own chain. bfloat16 in memory, float in
   registers; L and D are multiples of LANES. */

#include <math.h>
#include <string.h>

#include "vectors.h"

#define MOST_STEPS 8
#define WIDEST 512

static float dot(const uint16_t *a, const uint16_t *b, long size)
{
    vector sums = all(0);
    for (long i = 0; i < size; i += LANES)
        sums += widened(a + i) * widened(b + i);
    return sum_of(sums);
}

static float greatest_of(const uint16_t *x, long size)
{
    vector most = all(-INFINITY);
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
        const vector part = widened(x + i);
        most = choose(part > most, part, most);
    }
    float found = -INFINITY;
    for (int lane = 0; lane < LANES; lane++)
        found = most[lane] > found ? most[lane] : found;
    for (; i < size; i++) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        float each;
        memcpy(&each, &bits, sizeof each);
        found = each > found ? each : found;
    }
    return found;
}

static const integers places =
#if LANES == 16
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
    {0, 1, 2, 3, 4, 5, 6, 7};
#endif

/* scores [rows, L] become weights in place; those of the chain go to ``chain`` [rows, c]. ``room`` is for L floats. */
void chain_softmax(
    uint16_t *scores, const uint16_t *q, const uint16_t *const *chain_k, float *chain, const int64_t *bases,
    float *room, long B, long kv, long group, long n, long L, long D, long c, float scale)
{
    for (long head = 0; head < B * kv; head++)
        for (long row = 0; row < group * n; row++, scores += L, q += D, chain += c) {
            const long i = row % n, seen = bases[head / kv * n + i] + 1 < L ? bases[head / kv * n + i] + 1 : L;
            float most = greatest_of(scores, seen) * scale, total = 0;
            for (long step = 0; step < c; step++) {
                chain[step] = dot(q, chain_k[step] + (head * n + i) * D, D) * scale;
                most = chain[step] > most ? chain[step] : most;
            }
            vector sums = all(0);
            for (long t = 0; t < seen; t += LANES) {
                const vector e = exponential(widened(scores + t) * scale - most);
                *(vector *)(room + t) = choose(places < (int32_t)(seen - t), e, all(0));
                sums += *(const vector *)(room + t);
            }
            for (long step = 0; step < c; step++)
                total += chain[step] = exponential(all(chain[step] - most))[0];
            const float share = 1.0f / (total + sum_of(sums));
            const long written = (seen + LANES - 1) / LANES * LANES;
            for (long t = 0; t < written; t += LANES)
                narrow(scores + t, *(const vector *)(room + t) * share);
            memset(scores + written, 0, (L - written) * sizeof *scores);
            for (long step = 0; step < c; step++)
                chain[step] *= share;
        }
}

/* out [rows, D] += the chain's values by their weights. */
void chain_mix(
    uint16_t *out, const float *chain, const uint16_t *const *chain_v, long B, long kv, long group, long n, long D,
    long c)
{
    for (long head = 0; head < B * kv; head++)
        for (long row = 0; row < group * n; row++, out += D, chain += c)
            for (long d = 0; d < D; d += LANES) {
                vector sum = widened(out + d);
                for (long step = 0; step < c; step++)
                    sum += chain[step] * widened(chain_v[step] + (head * n + row % n) * D + d);
                narrow(out + d, sum);
            }
}

/* ``d_weights`` [rows, L] becomes the gradient of the dot products in place. The chain's part of dq is written to
   ``dq``, and the gradients of its keys and values, summed over a group's queries, to ``d_chain_k`` and ``_v``. */
void chain_softmax_backward(
    const uint16_t *weights, uint16_t *d_weights, const uint16_t *q, const uint16_t *const *chain_k,
    const uint16_t *const *chain_v, const float *chain, const uint16_t *d_out, const int64_t *bases, uint16_t *dq,
    uint16_t *const *d_chain_k, uint16_t *const *d_chain_v, long B, long kv, long group, long n, long L, long D, long c,
    float scale)
{
    float dk[MOST_STEPS][WIDEST], dv[MOST_STEPS][WIDEST];
    for (long head = 0; head < B * kv; head++)
        for (long i = 0; i < n; i++) {
            const long base = bases[head / kv * n + i], seen = base + 1 < L ? base + 1 : L, at = (head * n + i) * D;
            const long read = (seen + LANES - 1) / LANES * LANES;
            memset(dk, 0, c * sizeof *dk);
            memset(dv, 0, c * sizeof *dv);
            for (long row = head * group * n + i; row < (head + 1) * group * n; row += n) {
                const uint16_t *w = weights + row * L, *q_row = q + row * D, *d_row = d_out + row * D;
                uint16_t *dw = d_weights + row * L;
                const float *share = chain + row * c;
                float slope[MOST_STEPS], total = 0;
                vector sums = all(0);
                for (long t = 0; t < read; t += LANES)
                    sums += widened(w + t) * widened(dw + t);
                for (long step = 0; step < c; step++)
                    total += share[step] * (slope[step] = dot(d_row, chain_v[step] + at, D));
                total += sum_of(sums);
                for (long t = 0; t < read; t += LANES)
                    narrow(dw + t, widened(w + t) * (widened(dw + t) - total) * scale);
                memset(dw + read, 0, (L - read) * sizeof *dw);
                for (long d = 0; d < D; d += LANES) {
                    vector sum = all(0);
                    for (long step = 0; step < c; step++) {
                        const float s = share[step] * (slope[step] - total) * scale;
                        sum += s * widened(chain_k[step] + at + d);
                        *(vector *)(dk[step] + d) += s * widened(q_row + d);
                        *(vector *)(dv[step] + d) += share[step] * widened(d_row + d);
                    }
                    narrow(dq + row * D + d, sum);
                }
            }
            for (long step = 0; step < c; step++)
                for (long d = 0; d < D; d += LANES) {
                    narrow(d_chain_k[step] + at + d, *(const vector *)(dk[step] + d));
                    narrow(d_chain_v[step] + at + d, *(const vector *)(dv[step] + d));
                }
        }
}
