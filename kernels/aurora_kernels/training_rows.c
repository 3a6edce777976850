/* What a training step does to single rows between its products of matrices, forwards and backwards.

   Numbers are bfloat16 in memory and float in registers. Sizes of rows are multiples of LANES. */

#include <math.h>

#include "vectors.h"

/* y = x * scale * weight with scale = 1 / sqrt(mean(x^2) + eps), which is kept for the way back. N rows. */
void rms_norm_forward(const uint16_t *x, const float *weight, uint16_t *y, float *scales, long N, long size, float eps)
{
    for (long n = 0; n < N; n++, x += size, y += size) {
        vector squares = all(0);
        for (long i = 0; i < size; i += LANES)
            squares += widened(x + i) * widened(x + i);
        const float scale = scales[n] = 1.0f / sqrtf(sum_of(squares) / size + eps);
        for (long i = 0; i < size; i += LANES)
            narrow(y + i, widened(x + i) * scale * *(const vector *)(weight + i));
    }
}

/* From dy: dx, and dweight, which is added to. */
void rms_norm_backward(
    const uint16_t *x, const float *weight, const float *scales, const uint16_t *dy, uint16_t *dx, float *dweight,
    long N, long size)
{
    for (long n = 0; n < N; n++, x += size, dy += size, dx += size) {
        const float scale = scales[n];
        vector products = all(0);
        for (long i = 0; i < size; i += LANES) {
            const vector product = widened(dy + i) * widened(x + i) * scale;
            *(vector *)(dweight + i) += product;
            products += product * *(const vector *)(weight + i);
        }
        const float along = sum_of(products) / size * scale;
        for (long i = 0; i < size; i += LANES)
            narrow(dx + i, (widened(dy + i) * *(const vector *)(weight + i) - widened(x + i) * along) * scale);
    }
}

/* y = silu(gate) * up, of ``size`` numbers. */
void silu_times_forward(const uint16_t *gate, const uint16_t *up, uint16_t *y, long size)
{
    for (long i = 0; i < size; i += LANES) {
        const vector x = widened(gate + i);
        narrow(y + i, x * sigmoid(x) * widened(up + i));
    }
}

void silu_times_backward(
    const uint16_t *gate, const uint16_t *up, const uint16_t *dy, uint16_t *dgate, uint16_t *dup, long size)
{
    for (long i = 0; i < size; i += LANES) {
        const vector x = widened(gate + i), d = widened(dy + i), share = sigmoid(x);
        narrow(dgate + i, d * widened(up + i) * share * (1.0f + x * (1.0f - share)));
        narrow(dup + i, d * x * share);
    }
}

/* RoPE of the halves of each head: x [B, T, heads, D] -> y [B, heads, T, D]; cos and sin are [B, T, D / 2].

   The other way round, with -sin, when ``is_back``: x [B, heads, T, D] -> y [B, T, heads, D]. */
void rotate(
    const uint16_t *x, const float *cos, const float *sin, uint16_t *y, long B, long T, long heads, long D, long is_back)
{
    const long half = D / 2;
    for (long b = 0; b < B; b++)
        for (long t = 0; t < T; t++, cos += half, sin += half)
            for (long h = 0; h < heads; h++) {
                const long by_token = ((b * T + t) * heads + h) * D, by_head = ((b * heads + h) * T + t) * D;
                const uint16_t *low = x + (is_back ? by_head : by_token);
                uint16_t *out = y + (is_back ? by_token : by_head);
                for (long i = 0; i < half; i += LANES) {
                    const vector a = widened(low + i), b = widened(low + half + i), c = *(const vector *)(cos + i);
                    const vector s = is_back ? -*(const vector *)(sin + i) : *(const vector *)(sin + i);
                    narrow(out + i, a * c - b * s);
                    narrow(out + half + i, b * c + a * s);
                }
            }
}

/* logits [N, V] -> the slope of (1 - share) * cross-entropy - share * log(acceptance), in place, and each row's
   cross-entropy against its target.

   A target is ``k`` probabilities at rising or falling, not necessarily different ``ids``; ``room`` is for V floats.
   Acceptance, the sum of min(p, target), has the slope of a cross-entropy too: against the probabilities p that lie
   below their target, each in proportion to itself. */
void cross_entropy(
    uint16_t *logits, const int64_t *ids, const float *target, float *losses, float *room, long N, long V, long k,
    float least, float acceptance_share)
{
    for (long n = 0; n < N; n++, logits += V, ids += k, target += k) {
        vector most = all(-INFINITY), sums = all(0);
        for (long i = 0; i < V; i += LANES) {
            const vector x = widened(logits + i);
            most = choose(x > most, x, most);
        }
        float top = most[0];
        for (int lane = 1; lane < LANES; lane++)
            top = most[lane] > top ? most[lane] : top;
        for (long i = 0; i < V; i += LANES) {
            const vector e = exponential(widened(logits + i) - top);
            *(vector *)(room + i) = e;
            sums += e;
        }
        const float share = 1.0f / sum_of(sums);
        losses[n] = 0;
        for (long i = 0; i < k; i++)
            losses[n] -= target[i] * logf(fmaxf(room[ids[i]] * share, least));
        float accepted = least, weight = 1 - acceptance_share, wanted[k];
        for (long i = 0; i < k; i++)
            accepted += fminf(room[ids[i]] * share, target[i]);
        for (long i = 0; i < k; i++) {
            const float p = room[ids[i]] * share;
            const float raised = p < target[i] ? acceptance_share * p / accepted : 0;
            wanted[i] = (1 - acceptance_share) * target[i] + raised;
            weight += raised;
        }
        for (long i = 0; i < V; i += LANES)
            *(vector *)(room + i) *= weight;
        for (long i = 0; i < k; i++)
            room[ids[i]] -= wanted[i] / share;
        for (long i = 0; i < V; i += LANES)
            narrow(logits + i, *(const vector *)(room + i) * share);
    }
}
