/* y = x W^T for a few rows, W in float16 or bfloat16, products and sums in float32; for processors with AVX-512 or AVX2.

Decoding waits for memory, so a weight is read and converted once for up to ROWS rows, and the next ones are fetched
meanwhile. Every output is one chain of fused multiply-adds over the inputs in their order, from zero: its bits depend
neither on the rows beside it nor on the width of the registers.

Packed: panels of COLUMNS outputs, each [inputs][COLUMNS], so that a panel is read from front to back. The last panel
is filled up with zeros. float16 is converted by the units that multiply. bfloat16 is the upper half of a float32, so
two outputs share its four bytes and come apart by a shift and a mask, beside the products: PART outputs lie as
[LANES][2]. Shapes: m rows, n outputs, k inputs. */

#include <immintrin.h>
#include <stdint.h>

#define COLUMNS 32
#define AHEAD 2048 /* weights between what is used and what is fetched: 4 KiB, */
#define FAR_AHEAD 8192 /* and into the second cache, where memory and products take about as long as each other */

#if defined(__AVX512F__)
#define ROWS 12 /* 24 sums of 32 registers */
#define LANES 16
typedef __m512 vector;
#define zero _mm512_setzero_ps
#define broadcast(x) _mm512_set1_ps(x)
#define load_half(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define lower(p) (vector)_mm512_slli_epi32(_mm512_loadu_si512(p), 16)
#define upper(p) (vector)_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(0xffff0000))
#define multiply_add _mm512_fmadd_ps
#define store _mm512_storeu_ps
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define ROWS 6 /* 12 sums of 16 registers */
#define LANES 8
typedef __m256 vector;
#define zero _mm256_setzero_ps
#define broadcast(x) _mm256_set1_ps(x)
#define load_half(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define lower(p) (vector)_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(p)), 16)
#define upper(p) (vector)_mm256_and_si256(_mm256_loadu_si256((const __m256i *)(p)), _mm256_set1_epi32(0xffff0000))
#define multiply_add _mm256_fmadd_ps
#define store _mm256_storeu_ps
#else
#error "needs AVX-512, or AVX2 with FMA and F16C"
#endif

#define PART (2 * LANES) /* outputs at a time; a panel has one or two of them */

static inline __attribute__((always_inline)) void pack(
    const int is_bfloat, const uint16_t *weight, uint16_t *packed, long n, long k)
{
    for (long first = 0; first < n; first += COLUMNS)
        for (long j = 0; j < k; j++)
            for (long place = 0; place < COLUMNS; place++) {
                const long pair = place % PART, c = is_bfloat ? place - pair + pair / 2 + pair % 2 * LANES : place;
                *packed++ = first + c < n ? weight[(first + c) * k + j] : 0;
            }
}

/* PART outputs of ``rows`` rows; ``rows`` is a constant wherever this is called, so that the sums stay in registers,
and so is the format. */
static inline __attribute__((always_inline)) void part(
    const int rows, const int is_bfloat, const uint16_t *weight, const float *x, float *y, long stride, long k,
    long outputs)
{
    vector sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        sums[r][0] = sums[r][1] = zero();
    for (long j = 0; j < k; j++, weight += COLUMNS) {
        if (rows > 2 && rows <= 5)
            _mm_prefetch((const char *)(weight + FAR_AHEAD), _MM_HINT_T1);
        _mm_prefetch((const char *)(weight + AHEAD), _MM_HINT_T0);
        const vector left = is_bfloat ? lower(weight) : load_half(weight);
        const vector right = is_bfloat ? upper(weight) : load_half(weight + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const vector input = broadcast(x[r * k + j]);
            sums[r][0] = multiply_add(input, left, sums[r][0]);
            sums[r][1] = multiply_add(input, right, sums[r][1]);
        }
    }
    for (int r = 0; r < rows; r++) {
        float last[PART], *to = outputs >= PART ? y + r * stride : last;
        store(to, sums[r][0]);
        store(to + LANES, sums[r][1]);
        if (outputs < PART)
            __builtin_memcpy(y + r * stride, last, (outputs > 0 ? outputs : 0) * sizeof(float));
    }
}

#define CASE(R) \
    case R: \
        part(R, is_bfloat, weight, x, y, stride, k, outputs); \
        break;

static inline __attribute__((always_inline)) void parts(
    int rows, const int is_bfloat, const uint16_t *weight, const float *x, float *y, long stride, long k, long outputs)
{
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if ROWS == 12
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
}

static inline __attribute__((always_inline)) void linear(
    const int is_bfloat, const uint16_t *packed, const float *x, float *y, long m, long n, long k)
{
    const long blocks = (m + ROWS - 1) / ROWS;
    for (long first = 0; first < n; first += COLUMNS, packed += COLUMNS * k)
        for (long block = 0, done = 0, rows; block < blocks; block++, done += rows) {
            rows = (m - done + blocks - block - 1) / (blocks - block); /* blocks of about one size */
            for (long c = 0; c < COLUMNS && first + c < n; c += PART)
                parts(rows, is_bfloat, packed + c, x + done * k, y + done * n + first + c, n, k, n - first - c);
        }
}

void half_linear_pack(const uint16_t *weight, uint16_t *packed, long n, long k) { pack(0, weight, packed, n, k); }

void half_linear(const uint16_t *packed, const float *x, float *y, long m, long n, long k)
{
    linear(0, packed, x, y, m, n, k);
}

void bfloat_linear_pack(const uint16_t *weight, uint16_t *packed, long n, long k) { pack(1, weight, packed, n, k); }

void bfloat_linear(const uint16_t *packed, const float *x, float *y, long m, long n, long k)
{
    linear(1, packed, x, y, m, n, k);
}
