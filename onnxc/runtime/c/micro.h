/* micro.h: 8-bit layers for small processors, one loop nest a kind; the layers are data. C99; Arm's DSP instructions where
 * the compiler has them.
 *
 * Tensors are (rows, columns, channels) int8; uint8 ones have their sign bit flipped where they are read and written.
 * A sum of products is exact in 32 bits; with ONNXC_FLOATS, for processors that multiply floats, it becomes 8 bits by
 *
 *     y = saturate(round(m float(sum)) + z),   halves to even
 *
 * and without by integers alone:
 *
 *     y = saturate((z 2^s + 2^(s-1) + floor(sum M / 2^32)) >> s),   M = m 2^(32+s) to the nearest integer
 *
 * floor(floor(a) / 2^s) is floor(a / 2^s), so with an exact M this is m sum + z rounded once, halves up. Where floats are at hand most
 * channels have an M near m 2^37 with which this, with s = 5, gives what floats give for every sum that can be, in fewer instructions.
 */
#ifndef ONNXC_MICRO_H
#define ONNXC_MICRO_H

#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#define ONNXC_DSP 1
#endif

#if defined(ONNXC_HELIUM) && defined(__ARM_FEATURE_MVE) && defined(__GNUC__)
#include <arm_mve.h>
#define ONNXC_MVE 1 /* compilers move predicates and pointers about: the innermost parts are assembler */
#endif

#if defined(__GNUC__)
#define ONNXC_INLINE static inline __attribute__((always_inline))
#define ONNXC_KERNEL static __attribute__((noinline, unused))
#else
#define ONNXC_INLINE static inline
#define ONNXC_KERNEL static
#endif

/* A table of scales has z 2^s + 2^(s-1) and s, then the bias that a channel's sum starts from and its M. With floats s is 5, and M
 * is the float -m, an integer below 0, where no integer will do; with Helium z and 0, biases and m. What few layers need beyond that is done on whole pixels where there is an onnxc_ends: with a residual r the result is
 * (y' - inner) a + (r - other) b + zero, y' being within [low, high] what the sum gives; a and b are integers of 2^-rs, or floats.
 * The result is within [least, most], and flipped by `flip` (0x80) where y is uint8; `rflip` does so to r. Where u and v are not 0,
 * (u y' + v r + start) / 2^20, rounded down and within 8 bits, is the same for all y' and r. */
#ifdef ONNXC_FLOATS
typedef float onnxc_factor;
#else
typedef int32_t onnxc_factor;
#endif

typedef struct {
  onnxc_factor a, b;
  int32_t rs, inner, other, zero, low, high, least, most;
  uint32_t flip, rflip;
  int32_t u, v, start;
} onnxc_ends;

ONNXC_INLINE uint32_t onnxc_load(const void *p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return v;
}

ONNXC_INLINE void onnxc_store(void *p, uint32_t v) { memcpy(p, &v, 4); }

ONNXC_INLINE int32_t onnxc_saturate(int32_t v) {
#ifdef ONNXC_DSP
  return __ssat(v, 8);
#else
  return v < -128 ? -128 : v > 127 ? 127 : v;
#endif
}

/* The nearest integer, halves to even; |v| is less than 2^31. */
ONNXC_INLINE int32_t onnxc_round(float v) {
#if defined(ONNXC_FLOATS) && defined(__ARM_FP) && defined(__GNUC__)
  int32_t made;
  __asm__("vcvtr.s32.f32 %0, %1" : "=t"(v) : "t"(v));
  memcpy(&made, &v, 4);
  return made;
#else
  int32_t bits; /* v + 1.5 2^23 leaves round(v) in the low bits of the float */
  v = v < -4194304.0f ? -4194304.0f : v > 4194303.0f ? 4194303.0f : v;
  v += 12582912.0f;
  memcpy(&bits, &v, 4);
  return bits - 0x4b400000;
#endif
}

#define ONNXC_SHIFT 5 /* of tables where floats are at hand */

/* A sum as 8 bits by the float -m and z. */
ONNXC_INLINE int32_t onnxc_by_float(int32_t sum, int32_t m, int32_t z) {
  float factor;
  memcpy(&factor, &m, 4);
  return onnxc_saturate(onnxc_round((float)sum * -factor) + z);
}

/* A sum as 8 bits by an integer M, `offset` and `shift` of a table of scales. */
ONNXC_INLINE int32_t onnxc_by_integer(int32_t sum, int32_t m, int32_t offset, int32_t shift) {
#if defined(ONNXC_DSP) && defined(__GNUC__)
  int32_t v;
  __asm__("smmla %0, %1, %2, %3" : "=r"(v) : "r"(sum), "r"(m), "r"(offset));
#else
  int32_t v = offset + (int32_t)(((int64_t)sum * m) >> 32);
#endif
  return onnxc_saturate(v >> shift);
}

/* Two sums as 8 bits: of one channel, or of two that are both of integers or both of floats. */
ONNXC_INLINE void onnxc_requantise2(int32_t *a, int32_t *b, int32_t m, int32_t n, int32_t offset, int32_t shift) {
#if defined(ONNXC_FLOATS) && defined(ONNXC_HELIUM)
  (void)shift;
  *a = onnxc_by_float(*a, m ^ INT32_MIN, offset), *b = onnxc_by_float(*b, n ^ INT32_MIN, offset);
#else
#ifdef ONNXC_FLOATS
  shift = ONNXC_SHIFT;
  if (m < 0) {
    *a = onnxc_by_float(*a, m, offset >> ONNXC_SHIFT), *b = onnxc_by_float(*b, n, offset >> ONNXC_SHIFT);
    return;
  }
#endif
  *a = onnxc_by_integer(*a, m, offset, shift), *b = onnxc_by_integer(*b, n, offset, shift);
#endif
}

ONNXC_INLINE int32_t onnxc_requantise(int32_t sum, int32_t m, int32_t offset, int32_t shift) {
  int32_t none = 0;
  onnxc_requantise2(&sum, &none, m, m, offset, shift);
  return sum;
}

/* Bytes 0 and 2 of v, and bytes 1 and 3, each as 16 bits with its sign. */
ONNXC_INLINE uint32_t onnxc_even(uint32_t v) {
#ifdef ONNXC_DSP
  return (uint32_t)__sxtb16((int8x4_t)v);
#else
  return (uint32_t)(uint16_t)(int8_t)v | (uint32_t)(int8_t)(v >> 16) << 16;
#endif
}

ONNXC_INLINE uint32_t onnxc_odd(uint32_t v) {
#if defined(ONNXC_DSP) && defined(__GNUC__)
  uint32_t made;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(made) : "r"(v));
  return made;
#else
  return onnxc_even(v >> 8 | v << 24);
#endif
}

/* sum and the products of two pairs of 16 bits */
ONNXC_INLINE int32_t onnxc_dot2(uint32_t a, uint32_t b, int32_t sum) {
#ifdef ONNXC_DSP
  return __smlad((int16x2_t)a, (int16x2_t)b, sum);
#else
  return sum + (int16_t)a * (int16_t)b + ((int32_t)a >> 16) * ((int32_t)b >> 16);
#endif
}

/* A column has words (k0, k2) and (k1, k3) of each four of a window; two columns lie interleaved, which `gap` 2 says. */
ONNXC_INLINE uint32_t *onnxc_widen(uint32_t four, uint32_t *to, int gap) {
  to[0] = onnxc_even(four);
  to[gap] = onnxc_odd(four);
  return to + 2 * gap;
}

/* Words p[i] and p[i + 1], i being a constant. */
#if defined(ONNXC_DSP) && defined(__GNUC__)
#define ONNXC_LOAD2(p, i, first, second) \
  __asm__("ldrd %0, %1, [%2, %3]" : "=&r"(first), "=r"(second) : "r"(p), "n"(4 * (i)), "m"((p)[i]), "m"((p)[(i) + 1]))
#else
#define ONNXC_LOAD2(p, i, first, second) (first) = (p)[i], (second) = (p)[(i) + 1]
#endif

/* Sums of two tensors by integers; `rflip` and `flip` are 0 for int8. */
ONNXC_INLINE void onnxc_add(const onnxc_ends *e, const int8_t *from, const int8_t *r, int8_t *y, int count, uint32_t rflip,
                            uint32_t flip) {
  const int32_t u = e->u, v = e->v, start = e->start;
  const int8_t *end = from + count;
  while (from != end) {
    int32_t sum = start + u * *from++;
    sum += v * (int8_t)((uint8_t)*r++ ^ rflip);
    *y++ = (int8_t)((uint32_t)onnxc_saturate(sum >> 20) ^ flip);
  }
}

/* `count` bytes of y of what the sums gave, with what they are added to. */
ONNXC_KERNEL void onnxc_more(const onnxc_ends *e, const int8_t *from, const int8_t *r, int8_t *y, int count) {
#ifdef ONNXC_MVE
  const int32x4_t rflip = vdupq_n_s32(e->rflip ? -128 : 0), flip = vdupq_n_s32((int32_t)e->flip);
  for (; count > 0; count -= 4, from += 4, y += 4) {
    mve_pred16_t p = vctp32q((uint32_t)count);
    int32x4_t v = vldrbq_z_s32(from, p);
    if (r) {
      float32x4_t own, other = vcvtq_f32_s32(vsubq_n_s32(veorq_s32(vldrbq_z_s32(r, p), rflip), e->other));
      v = vminq_s32(vmaxq_s32(v, vdupq_n_s32(e->low)), vdupq_n_s32(e->high));
      own = vmulq_n_f32(vcvtq_f32_s32(vsubq_n_s32(v, e->inner)), e->a);
      v = vaddq_n_s32(vcvtnq_s32_f32(vaddq_f32(own, vmulq_n_f32(other, e->b))), e->zero);
      r += 4;
    }
    v = vminq_s32(vmaxq_s32(v, vdupq_n_s32(e->least)), vdupq_n_s32(e->most));
    vstrbq_p_s32(y, veorq_s32(v, flip), p);
  }
#else
  int i;
  if (r && (e->u || e->v)) {
    if (e->flip | e->rflip)
      onnxc_add(e, from, r, y, count, e->rflip, e->flip);
    else
      onnxc_add(e, from, r, y, count, 0, 0);
    return;
  }
  for (i = 0; i < count; i++) {
    int32_t v = from[i], other;
    if (r) {
      v = v < e->low ? e->low : v > e->high ? e->high : v;
      v -= e->inner;
      other = (int8_t)((uint8_t)r[i] ^ e->rflip) - e->other;
#ifdef ONNXC_FLOATS
      v = onnxc_round((float)v * e->a + (float)other * e->b) + e->zero;
#else
      v = (v * e->a + other * e->b + (e->zero << e->rs) + (1 << (e->rs - 1))) >> e->rs;
#endif
      v = onnxc_saturate(v);
    }
    v = v < e->least ? e->least : v > e->most ? e->most : v;
    y[i] = (int8_t)((uint32_t)v ^ e->flip);
  }
#endif
}

#endif
