/* What is done with the logits of a row: the greatest, their distribution, a draw from it. */

#include <math.h>

#include "vectors.h"

#define BLOCK 256 /* numbers that are looked at together; in ``softmax`` they are summed in float */

typedef double doubles __attribute__((vector_size(8 * LANES), aligned(8)));

static float maximum(const float *x, long size)
{
    vector most = all(-INFINITY);
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
        const vector part = *(const vector *)(x + i);
        most = choose(part > most, part, most);
    }
    float found = -INFINITY;
    for (int lane = 0; lane < LANES; lane++)
        found = most[lane] > found ? most[lane] : found;
    for (; i < size; i++)
        found = x[i] > found ? x[i] : found;
    return found;
}

/* The first place of the greatest number of each of N rows. */
void greatest(const float *x, int64_t *places, long N, long size)
{
    for (long n = 0; n < N; n++, x += size) {
        float most = -INFINITY;
        long block = 0;
        for (long first = 0; first < size; first += BLOCK) {
            const float found = maximum(x + first, first + BLOCK < size ? BLOCK : size - first);
            if (found > most) {
                most = found;
                block = first;
            }
        }
        long i = block;
        while (i + 1 < size && x[i] != most)
            i++;
        places[n] = i;
    }
}

/* y = softmax(x / temperature) of each of N rows; the temperature is LEAST_TEMPERATURE of sampling.py or more. */
void softmax(const float *x, float *y, long N, long size, float temperature)
{
    const float scale = 1.0f / temperature;
    for (long n = 0; n < N; n++, x += size, y += size) {
        const float most = maximum(x, size);
        double total = 0;
        for (long first = 0; first < size; first += BLOCK) {
            const long end = first + BLOCK < size ? first + BLOCK : size;
            vector sums = all(0);
            long i = first;
            for (; i + LANES <= end; i += LANES) {
                const vector e = exponential((*(const vector *)(x + i) - most) * scale);
                *(vector *)(y + i) = e;
                sums += e;
            }
            for (; i < end; i++)
                total += y[i] = exponential(all((x[i] - most) * scale))[0];
            for (int lane = 0; lane < LANES; lane++)
                total += sums[lane];
        }
        const float share = 1.0 / total;
        for (long i = 0; i < size; i++)
            y[i] *= share;
    }
}

static double sum(const float *p, long size)
{
    doubles sums = {0};
    long i = 0;
    for (; i + LANES <= size; i += LANES)
        sums += __builtin_convertvector(*(const vector *)(p + i), doubles);
    double total = 0;
    for (; i < size; i++)
        total += p[i];
    for (int lane = 0; lane < LANES; lane++)
        total += sums[lane];
    return total;
}

/* The first place at which the sum so far exceeds ``share`` of the whole, never one of a 0; all p >= 0. */
void draw(const float *p, int64_t *place, long size, double share)
{
    double total = 0, before = 0;
    for (long first = 0; first < size; first += BLOCK)
        total += sum(p + first, first + BLOCK < size ? BLOCK : size - first);
    const double wanted = share * total;
    *place = 0;
    for (long first = 0; first < size; first += BLOCK) {
        const long num = first + BLOCK < size ? BLOCK : size - first;
        const double with = before + sum(p + first, num);
        if (with > wanted)
            for (long i = first; i < first + num; i++) {
                before += p[i];
                if (p[i] > 0)
                    *place = i; /* the last one that can be, should rounding let none exceed it */
                if (p[i] > 0 && before > wanted)
                    return;
            }
        before = with;
    }
}
