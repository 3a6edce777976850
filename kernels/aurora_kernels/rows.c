/* What is done to single rows between two linear layers, in float32. */

#include <math.h>

#include "vectors.h"

/* y = x / sqrt(mean(x^2) + eps) * weight; ``weight`` may be 0: none. N rows of ``size`` numbers. */
void rms_norm(const float *x, const float *weight, float *y, long N, long size, float eps)
{
    for (long n = 0; n < N; n++, x += size, y += size) {
        vector squares = all(0);
        float sum = 0;
        long i = 0;
        for (; i + LANES <= size; i += LANES) {
            const vector part = *(const vector *)(x + i);
            squares += part * part;
        }
        for (; i < size; i++)
            sum += x[i] * x[i];
        for (int lane = 0; lane < LANES; lane++)
            sum += squares[lane];
        const float scale = 1.0f / sqrtf(sum / size + eps);
        for (i = 0; i < size; i++)
            y[i] = weight ? x[i] * scale * weight[i] : x[i] * scale;
    }
}

static inline __attribute__((always_inline)) vector silu(vector x) { return x * sigmoid(x); }

/* y = silu(gate) * up, of N rows [gate, up], each of ``size`` numbers. */
void silu_times(const float *both, float *y, long N, long size)
{
    for (long n = 0; n < N; n++, both += 2 * size, y += size) {
        long i = 0;
        for (; i + LANES <= size; i += LANES)
            *(vector *)(y + i) = silu(*(const vector *)(both + i)) * *(const vector *)(both + size + i);
        for (; i < size; i++)
            y[i] = silu(all(both[i]))[0] * both[size + i];
    }
}
