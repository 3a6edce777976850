/* Vectors of floats, in the notation that GCC and Clang share. */

#include <stdint.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4)));

typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));

static inline __attribute__((always_inline)) vector all(float x) { return x - (vector){0}; }

static inline __attribute__((always_inline)) vector choose(integers where, vector yes, vector no)
{
    return (vector)(((integers)yes & where) | ((integers)no & ~where));
}

static inline __attribute__((always_inline)) float sum_of(vector x)
{
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += x[lane];
    return sum;
}

/* bfloat16 in memory, float in registers; rounded to the nearest, to even between two. NaN stays one only by luck. */
static inline __attribute__((always_inline)) vector widened(const uint16_t *x)
{
    return (vector)(__builtin_convertvector(*(const halves *)x, words) << 16);
}

static inline __attribute__((always_inline)) void narrow(uint16_t *y, vector x)
{
    const words bits = (words)x;
    *(halves *)y = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, halves);
}

/* e^x for x <= 0 to 2e-7 of it; below -87 it is 0. The polynomial is that of Cephes' expf. */
static inline __attribute__((always_inline)) vector exponential(vector x)
{
    const integers is_low = x < -87.0f;
    x = choose(is_low, all(-87.0f), x);
    const integers n = __builtin_convertvector(x * 1.44269504088896341f - 0.5f, integers); /* towards zero */
    const vector whole = __builtin_convertvector(n, vector);
    const vector r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return choose(is_low, all(0), p * (vector)((n + 127) << 23));
}

static inline __attribute__((always_inline)) vector sigmoid(vector x)
{
    const vector e = exponential(choose(x < 0.0f, x, -x)); /* of -|x| */
    return choose(x < 0.0f, e, all(1)) / (1.0f + e);
}
