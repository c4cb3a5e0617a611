/* micro_helium_few.h: products of few-bit integers by Arm's vectors of microcontrollers (MVE), whose weights stay few bits: a byte has a
 * field for each of 16 bytes of a window further on.
 *
 * Of a byte B = sum u[k] 2^(f k) with F = 8 / f fields, t[k] = B 2^(f (F - 1 - k)) mod 256 has field k on top and the lower ones below.
 * With y[k] = 2^f x[k] - x[k + 1] + o, x[F] being 0, those cancel out:
 *
 *     sum y[k] t[k] = 256 sum x[k] u[k] + o sum t[k]
 *
 * o makes y an unsigned byte, and o sum t[k] is a number of each channel. Where (2^f + 1) times the range of x is more than a byte fields
 * are masked, and y = x - least x. Weights: for each four channels those four numbers, then a vector of each, and so on.
 */
#ifndef ONNXC_MICRO_HELIUM_FEW_H
#define ONNXC_MICRO_HELIUM_FEW_H

#include "micro_bits.h"

/* What is added up of a window: x are its codes, or sum s[i] 2^i (+-1) by planes where weights are +-1s. */
typedef struct {
  int32_t low, high, all, first; /* all: the sum of the planes' weights; first: x of a pixel whose bits are 0 */
  int32_t unit;                  /* what a set bit of the lowest plane adds */
} onnxc_numbers_of;

ONNXC_INLINE onnxc_numbers_of onnxc_range(const onnxc_bits_layer *s) {
  const int32_t most = (1 << s->xbits) - 1;
  onnxc_numbers_of n;
  n.all = s->xnegative ? -1 : most;
  if (s->how == ONNXC_AND)
    n.low = s->xnegative ? -(1 << (s->xbits - 1)) : 0, n.high = n.low + most, n.first = 0, n.unit = 1;
  else
    n.low = -most, n.high = most, n.first = -n.all, n.unit = 2;
  return n;
}

/* The window at x as bytes, 16 channels after 16, zeros for taps outside where those do not count, and zeros up to `size`; the sum of its
 * codes. */
ONNXC_KERNEL int32_t onnxc_window_bytes(const onnxc_bits_layer *s, const uint32_t *x, int row, int column, int size, uint8_t *to) {
  const onnxc_numbers_of n = onnxc_range(s);
  const int plane = 2 * s->plane, halves = 2 * s->used, top = s->xbits - 1;
  uint8_t *end = to + size;
  int32_t sum = 0, taps = 0;
  int i, j, k, p;
  for (i = 0; i < s->kh; i++)
    for (j = 0; j < s->kw; j++) {
      const uint16_t *at = (const uint16_t *)(const void *)(x + (i * s->dh * s->columns + j * s->dw) * s->line);
      int r = row + i * s->dh - s->top, c = column + j * s->dw - s->left;
      if (s->how == ONNXC_WITHIN && (r < 0 || r >= s->h || c < 0 || c >= s->w)) {
        memset(to, 0, (size_t)(16 * halves));
        to += 16 * halves;
        continue;
      }
      taps++;
      for (k = 0; k < halves; k++, at++, to += 16) {
        const uint16_t *bits = at;
        int32_t unit = n.unit;
#ifdef ONNXC_MVE
        uint8x16_t v = vdupq_n_u8((uint8_t)n.first);
        for (p = 0; p < top; p++, bits += plane, unit *= 2) v = vaddq_m_n_u8(v, v, (uint8_t)unit, *bits);
        v = vaddq_m_n_u8(v, v, (uint8_t)(s->xnegative ? -unit : unit), *bits);
        vstrbq_u8(to, v);
        sum = n.low < 0 ? vaddvaq_s8(sum, vreinterpretq_s8_u8(v)) : (int32_t)vaddvaq_u8((uint32_t)sum, v);
#else
        int32_t v[16];
        int l;
        for (l = 0; l < 16; l++) v[l] = n.first;
        for (p = 0; p <= top; p++, bits += plane, unit *= 2)
          for (l = 0; l < 16; l++) v[l] += *bits >> l & 1 ? (p == top && s->xnegative ? -unit : unit) : 0;
        for (l = 0; l < 16; l++) to[l] = (uint8_t)v[l], sum += v[l];
#endif
      }
    }
  memset(to, 0, (size_t)(end - to));
  return n.unit == 1 ? sum : (n.all * taps * 16 * halves + sum) / 2;
}

#ifdef ONNXC_MVE
/* A field of four channels, and the next one on top; instructions of one unit stand apart. */
#define ONNXC_WHOLE(a, q, f) "vmladava.u8 %[" a "], q4, " q "\n\tvshl.i8 " q ", " q ", #" f "\n\t"
#define ONNXC_MASKED(a, q, f) "vand q5, " q ", %q[mask]\n\tvshl.i8 " q ", " q ", #" f "\n\tvmladava.u8 %[" a "], q4, q5\n\t"
#define ONNXC_LAST(a, q, f) "vmladava.u8 %[" a "], q4, " q "\n\t"
#define ONNXC_THEN(one, f) "vldrb.8 q4, [%[y]], #16\n\t" one("a0", "q0", f) one("a1", "q1", f) one("a2", "q2", f) one("a3", "q3", f)
#define ONNXC_FIELDS4(one) ONNXC_THEN(one, "4") ONNXC_THEN(ONNXC_LAST, "4")
#define ONNXC_FIELDS2(one) ONNXC_THEN(one, "2") ONNXC_THEN(one, "2") ONNXC_THEN(one, "2") ONNXC_THEN(ONNXC_LAST, "2")
#define ONNXC_THREE1(one) ONNXC_THEN(one, "1") ONNXC_THEN(one, "1") ONNXC_THEN(one, "1")
#define ONNXC_FIELDS1(one) ONNXC_THREE1(one) ONNXC_THREE1(one) ONNXC_THEN(one, "1") ONNXC_THEN(ONNXC_LAST, "1")
#define ONNXC_FIELD_SUMS(fields)                                                                                          \
  __asm__ volatile("dls lr, %[count]\n"                                                                                   \
                   "1:\n\tvldrb.8 q0, [%[w]], #16\n\tvldrb.8 q1, [%[w]], #16\n\tvldrb.8 q2, [%[w]], #16\n\t"                 \
                   "vldrb.8 q3, [%[w]], #16\n\t" fields "le lr, 1b"                                                       \
                   : [a0] "+Te"(a0), [a1] "+Te"(a1), [a2] "+Te"(a2), [a3] "+Te"(a3), [y] "+r"(y), [w] "+r"(w)              \
                   : [count] "r"(count), [mask] "w"(mask)                                                                 \
                   : "q0", "q1", "q2", "q3", "q4", "q5", "lr", "memory")
#endif

/* As onnxc_by_channel, by fields of `field` bits. */
ONNXC_INLINE void onnxc_by_fields(const onnxc_bits_layer *s, const uint32_t *x, int row, int column, const uint32_t *w, int32_t *sums,
                                  uint32_t *work, const int field, const int masked) {
  const onnxc_numbers_of n = onnxc_range(s);
  const int fields = 8 / field, part = 16 * fields, count = (s->kh * s->kw * s->used * 32 + part - 1) / part, size = count * part;
  const int32_t *end = sums + s->oc;
  uint8_t *bytes = (uint8_t *)work, *products = bytes + size;
  int32_t more;
  int i, k;
  x += (row * s->columns + column) * s->line;
  more = onnxc_window_bytes(s, x, row, column, size, bytes);
  more *= s->how == ONNXC_AND ? (s->wnegative ? -(1 << (s->wbits - 1)) : 0) : (1 << s->wbits) - 1;
#ifdef ONNXC_MVE
  for (i = 0; i < count; i++, bytes += part, products += part) {
    const uint8x16_t zero = vdupq_n_u8((uint8_t)(masked ? -n.low : n.high - n.low * (1 << field)));
    uint8x16_t next = vdupq_n_u8(0);
    for (k = fields - 1; k >= 0; k--) {
      uint8x16_t v = vldrbq_u8(bytes + 16 * k);
      if (masked)
        vstrbq_u8(products + 16 * (fields - 1 - k), vaddq_u8(v, zero));
      else
        vstrbq_u8(products + 16 * (fields - 1 - k), vsubq_u8(vaddq_u8(vshlq_r_u8(v, field), zero), next)), next = v;
    }
  }
  products -= size;
  for (; sums < end; sums += 4) {
    const int32x4_t own = vldrwq_s32((const int32_t *)(const void *)w);
    const uint8x16_t mask = vdupq_n_u8((uint8_t)(256u - (256u >> field)));
    const uint8_t *y = products;
    uint32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    int32x4_t v;
    w += 4;
    if (field == 4 && masked) ONNXC_FIELD_SUMS(ONNXC_FIELDS4(ONNXC_MASKED));
    if (field == 2 && masked) ONNXC_FIELD_SUMS(ONNXC_FIELDS2(ONNXC_MASKED));
    if (field == 1 && masked) ONNXC_FIELD_SUMS(ONNXC_FIELDS1(ONNXC_MASKED));
    if (field == 4 && !masked) ONNXC_FIELD_SUMS(ONNXC_FIELDS4(ONNXC_WHOLE));
    if (field == 2 && !masked) ONNXC_FIELD_SUMS(ONNXC_FIELDS2(ONNXC_WHOLE));
    if (field == 1 && !masked) ONNXC_FIELD_SUMS(ONNXC_FIELDS1(ONNXC_WHOLE));
    __asm__("vmov %q0[2], %q0[0], %1, %3\n\tvmov %q0[3], %q0[1], %2, %4" : "=&w"(v) : "r"(a0), "r"(a1), "r"(a2), "r"(a3));
    v = vshlq_r_s32(vsubq_s32(v, own), masked ? field - 8 : -8);
    vstrwq_s32(sums, vaddq_n_s32(s->how == ONNXC_AND ? v : vnegq_s32(v), more));
  }
#else
  (void)products, (void)masked, (void)n;
  for (i = 0; sums != end; i = (i + 1) & 3, sums++) {
    const uint8_t *at = (const uint8_t *)(w + 4) + 16 * i;
    int32_t sum = 0;
    int l;
    for (k = 0; k < size; k += part)
      for (l = 0; l < part; l++) {
        int32_t v = bytes[k + l], u = at[64 * (k / part) + (l & 15)] >> (field * (l >> 4)) & ((1 << field) - 1);
        sum += (n.low < 0 && v > 127 ? v - 256 : v) * u;
      }
    *sums = (s->how == ONNXC_AND ? sum : -sum) + more;
    if (i == 3) w += 4 + 16 * count;
  }
#endif
}

#define ONNXC_BY_FIELDS(name, field, masked)                                                                              \
  ONNXC_KERNEL void onnxc_by_##name##field(const onnxc_bits_layer *s, const uint32_t *x, int row, int column, const uint32_t *w, \
                                           int32_t *sums, uint32_t *work, const uint32_t *tests) {                        \
    (void)tests;                                                                                                          \
    onnxc_by_fields(s, x, row, column, w, sums, work, field, masked);                                                     \
  }
ONNXC_BY_FIELDS(whole, 1, 0)
ONNXC_BY_FIELDS(whole, 2, 0)
ONNXC_BY_FIELDS(whole, 4, 0)
ONNXC_BY_FIELDS(masked, 1, 1)
ONNXC_BY_FIELDS(masked, 2, 1)
ONNXC_BY_FIELDS(masked, 4, 1)

#endif
