/* What one core of this machine can do at most: multiply-adds in registers, and bytes read from memory of some extent.
 *
 * Lanes are those that the compiler has for this machine (-march=native). Sums are kept apart so that none waits for another. */
#define _POSIX_C_SOURCE 199309L
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#define SUMS 24
#elif defined(__AVX__)
#define BYTES 32
#define SUMS 12
#else
#define BYTES 16
#define SUMS 12
#endif
#define KEPT(v) __asm__ volatile("" : "+" REGISTER(v))
#if defined(__x86_64__)
#define REGISTER(v) "x"(v)
#elif defined(__aarch64__)
#define REGISTER(v) "w"(v)
#else
#define REGISTER(v) "m"(v)
#endif

typedef float floats __attribute__((vector_size(BYTES)));
typedef int32_t ints __attribute__((vector_size(BYTES)));

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Multiply-adds of floats in a second, of `turns` turns. */
double ceiling_float32(int turns);
double ceiling_float32(int turns) {
  floats sum[SUMS], a, b;
  double start;
  int i, j;
  for (j = 0; j < BYTES / 4; j++) a[j] = 0.5f, b[j] = 1.0f;
#pragma GCC unroll 24
  for (i = 0; i < SUMS; i++) sum[i] = a * (float)i;
  KEPT(a);
  KEPT(b);
  start = now();
  for (; turns > 0; turns--) {
#pragma GCC unroll 24
    for (i = 0; i < SUMS; i++) sum[i] = sum[i] * a + b;
  }
  start = now() - start;
#pragma GCC unroll 24
  for (i = 0; i < SUMS; i++) KEPT(sum[i]);
  return start;
}
int ceiling_float32_macs(void);
int ceiling_float32_macs(void) { return SUMS * BYTES / 4; }

/* One step of 8-bit products into 32-bit sums, by the instruction that this machine has for it. */
static inline ints step(ints sum, ints a, ints b) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
  return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__)
  return (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__)
  return sum + (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return sum + (ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__ARM_FEATURE_DOTPROD)
  return (ints)vdotq_s32((int32x4_t)sum, (int8x16_t)a, (int8x16_t)b);
#else
  return sum + a * b;
#endif
}
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_DOTPROD)
#define PRODUCTS 4
#elif defined(__SSE2__)
#define PRODUCTS 2
#else
#define PRODUCTS 1
#endif

double ceiling_int8(int turns);
double ceiling_int8(int turns) {
  ints sum[SUMS], a, b;
  double start;
  int i, j;
  for (j = 0; j < BYTES / 4; j++) a[j] = 0x01010101, b[j] = 0x01010101;
#pragma GCC unroll 24
  for (i = 0; i < SUMS; i++) sum[i] = a * i;
  KEPT(a);
  KEPT(b);
  start = now();
  for (; turns > 0; turns--) {
#pragma GCC unroll 24
    for (i = 0; i < SUMS; i++) sum[i] = step(sum[i], a, b);
  }
  start = now() - start;
#pragma GCC unroll 24
  for (i = 0; i < SUMS; i++) KEPT(sum[i]);
  return start;
}
int ceiling_int8_macs(void);
int ceiling_int8_macs(void) { return SUMS * BYTES / 4 * PRODUCTS; }

/* Binary multiply-adds: an exclusive or and a count of 64 at a time; 0 a turn where no instruction counts vectors. */
double ceiling_bits(int turns);
double ceiling_bits(int turns) {
#if defined(__AVX512VPOPCNTDQ__)
  __m512i sum[SUMS], b = _mm512_set1_epi64(turns);
  double start;
  int i;
#pragma GCC unroll 24
  for (i = 0; i < SUMS; i++) sum[i] = _mm512_set1_epi64(i);
  start = now();
  for (; turns > 0; turns--) {
#pragma GCC unroll 24
    for (i = 0; i < SUMS; i++) sum[i] = _mm512_add_epi64(sum[i], _mm512_popcnt_epi64(_mm512_xor_si512(sum[i], b)));
  }
  start = now() - start;
#pragma GCC unroll 24
  for (i = 0; i < SUMS; i++) KEPT(sum[i]);
  return start;
#else
  return 1e-3 * turns;
#endif
}
int ceiling_bits_macs(void);
int ceiling_bits_macs(void) {
#if defined(__AVX512VPOPCNTDQ__)
  return SUMS * 512;
#else
  return 0;
#endif
}

/* Seconds to read `bytes` (a multiple of 512) of `data`, `turns` times. */
double ceiling_read(const char *data, size_t bytes, int turns);
double ceiling_read(const char *data, size_t bytes, int turns) {
  ints sum[4] = {{0}};
  double start = now();
  size_t i;
  int k;
  for (; turns > 0; turns--)
    for (i = 0; i < bytes; i += 4 * BYTES)
      for (k = 0; k < 4; k++) sum[k] |= *(const ints *)(data + i + (size_t)k * BYTES);
  start = now() - start;
  for (k = 0; k < 4; k++) KEPT(sum[k]);
  return start;
}
