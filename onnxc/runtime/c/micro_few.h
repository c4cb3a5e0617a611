/* micro_few.h: products of few-bit integers by multiplication, where words of bits would be counted more than twice: activations become
 * 16-bit numbers, once for a window, and a word of weights has pairs of codes of 1, 2 or 4 bits, 16 bits apart, as smlad reads them.
 *
 * Codes of signed weights are w + 2^(bits - 1): a pixel's sums begin with -2^(bits - 1) times the sum of its activations.
 */
#ifndef ONNXC_MICRO_FEW_H
#define ONNXC_MICRO_FEW_H

#include "micro_bits.h"

/* A field of a word: what compilers make two instructions of where the mask fits into one. */
#if defined(ONNXC_DSP) && defined(__GNUC__)
#define ONNXC_FIELD(to, v, shift) __asm__("and %0, %1, %2, lsr %3" : "=r"(to) : "r"(mask), "r"(v), "n"(shift))
#else
#define ONNXC_FIELD(to, v, shift) ((to) = (v) >> (shift) & mask)
#endif

/* The window at x as pairs of numbers, channels k and k + 16 of each 32, every second word from `to` on; and their sum. */
ONNXC_KERNEL int32_t onnxc_numbers(const onnxc_bits_layer *s, const uint32_t *x, uint32_t *to) {
  const uint32_t mask = 0x00010001u;
  const int plane = s->plane, top = s->xbits - 1;
  int i, j, k, q;
  int32_t sum = 0;
  for (i = 0; i < s->kh; i++)
    for (j = 0; j < s->kw; j++)
      for (k = 0; k < s->used; k++) {
        const uint32_t *first = x + (i * s->dh * s->columns + j * s->dw) * s->line + k;
        uint32_t all = 0; /* 16 numbers of 8 bits at most leave 16 bits to their sum */
        for (q = 0; q < 16; q += 4, to += 8) {
          const uint32_t *at = first + top * plane;
          uint32_t v = *at >> q, a = v & mask, b, c, d, t;
          ONNXC_FIELD(b, v, 1);
          ONNXC_FIELD(c, v, 2);
          ONNXC_FIELD(d, v, 3);
          while (at != first) {
            at -= plane, v = *at >> q;
            a = 2 * a + (v & mask);
            ONNXC_FIELD(t, v, 1);
            b = 2 * b + t;
            ONNXC_FIELD(t, v, 2);
            c = 2 * c + t;
            ONNXC_FIELD(t, v, 3);
            d = 2 * d + t;
          }
          to[0] = a, to[2] = b, to[4] = c, to[6] = d, all += a + b + c + d;
        }
        sum = onnxc_dot2(all, mask, sum);
      }
  return sum;
}

#define ONNXC_PAIR(k, t, u)                                                                      \
  ONNXC_LOAD2(x, 2 * (k), x0, x1);                                                               \
  a = onnxc_dot2(t, x0, a), b = onnxc_dot2(t, x1, b), c = onnxc_dot2(u, x0, c), d = onnxc_dot2(u, x1, d)
#define ONNXC_FEW(k)                \
  ONNXC_FIELD(t, v, bits * (k));    \
  ONNXC_FIELD(u, z, bits * (k));    \
  ONNXC_PAIR(k, t, u)
#define ONNXC_FEW4(k) \
  ONNXC_FEW(k);       \
  ONNXC_FEW((k) + 1); \
  ONNXC_FEW((k) + 2); \
  ONNXC_FEW((k) + 3)

/* As onnxc_by_channel, two pixels of a row at once: the sums of the second wait in work for the next call. */
ONNXC_INLINE void onnxc_by_product(const onnxc_bits_layer *s, const uint32_t *x, int row, int column, const uint32_t *w,
                                   int32_t *sums, uint32_t *work, const int bits) {
  const uint32_t mask = 0x00010001u * ((1u << bits) - 1);
  const int pairs = s->kh * s->kw * s->used * 16, words = pairs * bits / 16;
  int32_t *next = (int32_t *)(void *)(work + 2 * pairs), first, second, *end = sums + s->oc;
  if (column / s->sw & 1) {
    memcpy(sums, next, 4 * (size_t)s->oc);
    return;
  }
  x += (row * s->columns + column) * s->line;
  first = onnxc_numbers(s, x, work);
  second = onnxc_numbers(s, column / s->sw + 1 < s->ow ? x + s->sw * s->line : x, work + 1);
  first = s->wnegative ? -first * (1 << (bits - 1)) : 0, second = s->wnegative ? -second * (1 << (bits - 1)) : 0;
  for (; sums != end; sums += 2, next += 2, w += 2 * words) {
    const uint32_t *at = w, *last = w + words;
    int32_t a = first, b = second, c = first, d = second;
    for (x = work; at != last; at++) {
      uint32_t v = at[0], z = at[words], t, u, x0, x1;
      t = v & mask, u = z & mask;
      ONNXC_PAIR(0, t, u);
      ONNXC_FEW(1);
      ONNXC_FEW(2);
      ONNXC_FEW(3);
      if (bits < 4) {
        ONNXC_FEW4(4);
      }
      if (bits < 2) {
        ONNXC_FEW4(8);
        ONNXC_FEW4(12);
      }
      x += 32 / bits;
    }
    sums[0] = a, sums[1] = c, next[0] = b, next[1] = d;
  }
}

#define ONNXC_BY_PRODUCT(bits)                                                                                                      \
  ONNXC_KERNEL void onnxc_by_product##bits(const onnxc_bits_layer *s, const uint32_t *x, int row, int column, const uint32_t *w,   \
                                           int32_t *sums, uint32_t *work, const uint32_t *tests) {                                 \
    (void)tests;                                                                                                                    \
    onnxc_by_product(s, x, row, column, w, sums, work, bits);                                                                      \
  }
ONNXC_BY_PRODUCT(1)
ONNXC_BY_PRODUCT(2)
ONNXC_BY_PRODUCT(4)

#ifdef ONNXC_HELIUM
#include "micro_helium_few.h"
#endif

#endif
