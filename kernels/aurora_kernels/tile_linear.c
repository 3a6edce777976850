/* y = x W^T for a few dozen rows, W in bfloat16, on processors with AMX: products and sums in float32.

An input is split into three bfloat16 parts that add up to it exactly (8 bits of mantissa each), and each part is
multiplied as it is: what AMX makes of a product is exact. All three fit beside each other in the time that the weights
take from memory, so 16 rows cost what one costs, and 64 not much more.

Each output adds up its products in one order whatever stands beside it, so its bits don't depend on other rows.
Packed: panels of 32 outputs; in each, of 32 inputs at a time, two tiles of 16 outputs, [16 pairs][16 outputs][2].
Numbers below 2^-126 count as 0. Shapes: m rows, n outputs, k inputs, K = k rounded up to 32. */

#include <stdint.h>

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIDE 16       /* rows and outputs of a tile */
#define DEPTH 32      /* inputs of a tile */
#define PARTS 3
#define TILE 512      /* numbers of a tile */
#define AHEAD 8192    /* bytes between what is used and what is fetched */
#define PERMISSION 0x1023 /* arch_prctl's ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18

int tile_linear_available(void) { return syscall(SYS_arch_prctl, PERMISSION, TILE_DATA) == 0; }

void tile_linear_pack(const uint16_t *weight, uint16_t *packed, long n, long k)
{
    const long depths = (k + DEPTH - 1) / DEPTH;
    for (long first = 0; first < n; first += SIDE * 2)
        for (long depth = 0; depth < depths; depth++)
            for (long half = 0; half < 2; half++)
                for (long i = 0; i < TILE; i++) {
                    const long output = first + half * SIDE + i / 2 % SIDE;
                    const long input = depth * DEPTH + i / (2 * SIDE) * 2 + i % 2;
                    *packed++ = output < n && input < k ? weight[output * k + input] : 0;
                }
}

/* x [m][k] -> parts, in the order of use: [inputs of a tile][PARTS][rows], filled up with zeros. */
static void split(const float *x, uint16_t *parts, long m, long k, long rows, long K)
{
    for (long r = 0; r < rows; r++)
        for (long j = 0; j < K; j += SIDE) {
            const long left = r < m ? k - j : 0;
            const __mmask16 mask = left >= SIDE ? 0xffff : left > 0 ? (1 << left) - 1 : 0;
            __m512 rest = _mm512_maskz_loadu_ps(mask, x + (mask ? r * k + j : 0));
            uint16_t *to = parts + (j / DEPTH * PARTS * rows + r) * DEPTH + j % DEPTH;
            for (long p = 0; p < PARTS; p++, to += rows * DEPTH) {
                const __m256i part = (__m256i)_mm512_cvtneps_pbh(rest);
                _mm256_storeu_si256((__m256i *)to, part);
                rest -= (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(part), 16);
            }
        }
}

struct shape {
    uint8_t palette, start, reserved[14];
    uint16_t width[16];
    uint8_t height[16];
};

/* Tiles 0..3: sums [row half][output half]; 4, 5: inputs of the row halves; 6, 7: weights of the output halves. */
static void configure(void)
{
    struct shape shape = {.palette = 1};
    for (int i = 0; i < 8; i++)
        shape.width[i] = 64, shape.height[i] = SIDE;
    _tile_loadconfig(&shape);
}

static inline __attribute__((always_inline)) void panel(
    const int halves, const uint16_t *weight, const uint16_t *input, float *sums, long K, long rows)
{
    _tile_zero(0);
    _tile_zero(1);
    if (halves == 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long j = 0; j < K; j += DEPTH, weight += 2 * TILE) {
        for (long line = 0; line < 4 * TILE; line += 64)
            _mm_prefetch((const char *)weight + AHEAD + line, _MM_HINT_T0);
        _tile_loadd(6, weight, 64);
        _tile_loadd(7, weight + TILE, 64);
        for (int p = 0; p < PARTS; p++, input += rows * DEPTH) {
            _tile_loadd(4, input, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (halves == 2) {
                _tile_loadd(5, input + TILE, 64);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + SIDE, 128);
    if (halves == 2) {
        _tile_stored(2, sums + SIDE * 32, 128);
        _tile_stored(3, sums + SIDE * 32 + SIDE, 128);
    }
}

/* ``parts``: room for PARTS * (m rounded up to 16) * K numbers. */
void tile_linear(const uint16_t *packed, const float *x, float *y, uint16_t *parts, long m, long n, long k)
{
    const long K = (k + DEPTH - 1) / DEPTH * DEPTH, rows = (m + SIDE - 1) / SIDE * SIDE;
    float sums[2 * SIDE * 32];
    split(x, parts, m, k, rows, K);
    configure();
    for (long first = 0; first < n; first += 32, packed += 32 * K)
        for (long row = 0; row < m; row += 2 * SIDE) {
            if (m - row > SIDE)
                panel(2, packed, parts + row * DEPTH, sums, K, rows);
            else
                panel(1, packed, parts + row * DEPTH, sums, K, rows);
            const long outputs = n - first < 32 ? n - first : 32;
            for (long r = 0; r < 2 * SIDE && row + r < m; r++)
                __builtin_memcpy(y + (row + r) * n + first, sums + r * 32, outputs * sizeof(float));
        }
    _tile_release();
}

#else

int tile_linear_available(void) { return 0; }
void tile_linear_pack(const uint16_t *weight, uint16_t *packed, long n, long k) { (void)weight, (void)packed, (void)n, (void)k; }
void tile_linear(const uint16_t *packed, const float *x, float *y, uint16_t *parts, long m, long n, long k)
{
    (void)packed, (void)x, (void)y, (void)parts, (void)m, (void)n, (void)k;
}

#endif
