/* micro_count.h: bits of words are counted by carry-save adders: of two words and the sum so far
 *
 *     u = a ^ b;  carry = a & b | u & c;  sum = u ^ c
 *
 * so that eight words leave one word of weight 8 to count, in 35 operations; what is left of weights 1, 2 and 4 is counted at the end.
 */
#ifndef ONNXC_MICRO_COUNT_H
#define ONNXC_MICRO_COUNT_H

#include "micro.h"

enum { ONNXC_XOR, ONNXC_AND, ONNXC_WITHIN }; /* x ^ w; x & w; (x ^ w) & m, where m stands behind each word of x */
#define ONNXC_MOST_WORDS 240                 /* that are counted in bytes at once */

ONNXC_INLINE uint32_t onnxc_halves(uint32_t v) { return v - (v >> 1 & 0x55555555u); }
ONNXC_INLINE uint32_t onnxc_quarters(uint32_t v) { return (v & 0x33333333u) + (v >> 2 & 0x33333333u); }
ONNXC_INLINE uint32_t onnxc_bytes(uint32_t v) { return (v & 0x0f0f0f0fu) + (v >> 4 & 0x0f0f0f0fu); }

/* The sum of four bytes. */
ONNXC_INLINE int32_t onnxc_across(uint32_t v) {
#ifdef ONNXC_DSP
  return (int32_t)__usad8(v, 0);
#else
  v = (v & 0x00ff00ffu) + (v >> 8 & 0x00ff00ffu);
  return (int32_t)((v + (v >> 16)) & 0xffffu);
#endif
}

#define ONNXC_CARRY(carry, sum, a, b)                       \
  do {                                                      \
    uint32_t a_ = (a), b_ = (b), u_ = a_ ^ b_;              \
    (carry) = (a_ & b_) | (u_ & (sum)), (sum) = u_ ^ (sum); \
  } while (0)
#define ONNXC_WORD(i) (how == ONNXC_AND ? x[i] & w[i] : how == ONNXC_XOR ? x[i] ^ w[i] : (x[2 * (i)] ^ w[i]) & x[2 * (i) + 1])
#define ONNXC_NEXT(i) (x += how == ONNXC_WITHIN ? 2 * (i) : (i), w += (i))

/* Bits of `count` words, at most ONNXC_MOST_WORDS. */
ONNXC_INLINE int32_t onnxc_count(const uint32_t *x, const uint32_t *w, int count, int how) {
  uint32_t ones = 0, twos = 0, fours = 0, eights, t0, t1, f0, f1, many = 0;
  const uint32_t *end = w + (count & ~7);
  for (; w != end; ONNXC_NEXT(8)) {
    ONNXC_CARRY(t0, ones, ONNXC_WORD(0), ONNXC_WORD(1));
    ONNXC_CARRY(t1, ones, ONNXC_WORD(2), ONNXC_WORD(3));
    ONNXC_CARRY(f0, twos, t0, t1);
    ONNXC_CARRY(t0, ones, ONNXC_WORD(4), ONNXC_WORD(5));
    ONNXC_CARRY(t1, ones, ONNXC_WORD(6), ONNXC_WORD(7));
    ONNXC_CARRY(f1, twos, t0, t1);
    ONNXC_CARRY(eights, fours, f0, f1);
    many += onnxc_bytes(onnxc_quarters(onnxc_halves(eights)));
  }
  for (count &= 7; count > 0; count -= 2) { /* two and two, or a last one */
    uint32_t second = 0;
    if (count > 1) second = ONNXC_WORD(1);
    ONNXC_CARRY(t0, ones, ONNXC_WORD(0), second);
    f0 = twos & t0, twos ^= t0;
    eights = fours & f0, fours ^= f0;
    many += onnxc_bytes(onnxc_quarters(onnxc_halves(eights)));
    ONNXC_NEXT(2);
  }
  ones = onnxc_quarters(onnxc_halves(ones)) + (onnxc_quarters(onnxc_halves(twos)) << 1);
  fours = onnxc_bytes(onnxc_quarters(onnxc_halves(fours)));
  return onnxc_across(onnxc_bytes(ones) + (fours << 2)) + (onnxc_across(many) << 3);
}

typedef int32_t onnxc_counter(const uint32_t *x, const uint32_t *w, int count);
ONNXC_KERNEL int32_t onnxc_count_xor(const uint32_t *x, const uint32_t *w, int n) { return onnxc_count(x, w, n, ONNXC_XOR); }
ONNXC_KERNEL int32_t onnxc_count_and(const uint32_t *x, const uint32_t *w, int n) { return onnxc_count(x, w, n, ONNXC_AND); }
ONNXC_KERNEL int32_t onnxc_count_within(const uint32_t *x, const uint32_t *w, int n) {
  return onnxc_count(x, w, n, ONNXC_WITHIN);
}

/* By slices: a word of w has the bits of 32 output channels for one input channel, and 32 counters stand side by side,
 * bit by bit: counts[0] has the lowest bits of all. Sixteen words leave one of weight 16, which waits in a list. */
ONNXC_INLINE uint32_t onnxc_spread(uint32_t x, int i) { return (uint32_t)((int32_t)(x << (31 - i)) >> 31); }
#define ONNXC_TWO(i, carry)                                 \
  do {                                                      \
    uint32_t a_, b_, u_;                                    \
    ONNXC_LOAD2(w, i, a_, b_);                              \
    a_ = and_ ? a_ & onnxc_spread(bits, i) : a_ ^ onnxc_spread(bits, i);             \
    b_ = and_ ? b_ & onnxc_spread(bits, (i) + 1) : b_ ^ onnxc_spread(bits, (i) + 1); \
    u_ = a_ ^ b_;                                           \
    (carry) = (a_ & b_) | (u_ & ones), ones ^= u_;          \
  } while (0)
#define ONNXC_EIGHT(i, made)     \
  ONNXC_TWO(i, t0);              \
  ONNXC_TWO((i) + 2, t1);        \
  ONNXC_CARRY(f0, twos, t0, t1); \
  ONNXC_TWO((i) + 4, t0);        \
  ONNXC_TWO((i) + 6, t1);        \
  ONNXC_CARRY(f1, twos, t0, t1); \
  ONNXC_CARRY(made, fours, f0, f1)

/* `sixteens` parts of 16 channels, two a word of x; the list grows by as many. */
ONNXC_INLINE uint32_t *onnxc_slice(const uint32_t *x, const uint32_t *w, int sixteens, uint32_t *counts, uint32_t *list,
                                   const int and_) {
  uint32_t ones = counts[0], twos = counts[1], fours = counts[2], eights = counts[3], t0, t1, f0, f1, e0, e1, bits = 0;
  uint32_t *end = list + sixteens;
  int odd = 0;
  for (; list != end; w += 16, odd ^= 1) {
    if (odd)
      bits >>= 16;
    else
      bits = *x++;
    ONNXC_EIGHT(0, e0);
    ONNXC_EIGHT(8, e1);
    ONNXC_CARRY(*list++, eights, e0, e1);
  }
  counts[0] = ones, counts[1] = twos, counts[2] = fours, counts[3] = eights;
  return list;
}

ONNXC_KERNEL uint32_t *onnxc_slice_xor(const uint32_t *x, const uint32_t *w, int sixteens, uint32_t *counts, uint32_t *list) {
  return onnxc_slice(x, w, sixteens, counts, list, 0);
}
ONNXC_KERNEL uint32_t *onnxc_slice_and(const uint32_t *x, const uint32_t *w, int sixteens, uint32_t *counts, uint32_t *list) {
  return onnxc_slice(x, w, sixteens, counts, list, 1);
}

/* Counts a list of words from counts[0] on: two of them leave one for the next level. */
ONNXC_KERNEL void onnxc_count_list(uint32_t *list, uint32_t *end, uint32_t *counts, int levels) {
  for (; levels > 0; levels--) {
    const uint32_t *at = list;
    uint32_t *to = list, sum = *counts;
    for (; end - at > 1; at += 2) ONNXC_CARRY(*to++, sum, at[0], at[1]);
    if (at != end) {
      uint32_t last = *at;
      *to++ = sum & last, sum ^= last;
    }
    *counts++ = sum;
    end = to;
  }
}

/* Bits of four of 32 counters, from channel c on, in the bytes of a word: those of `count` levels. */
ONNXC_INLINE uint32_t onnxc_four(const uint32_t *counts, int count, int c) {
  uint32_t made = 0;
  for (; count > 0; count--) made = made << 1 | (((counts[count - 1] >> c & 15) * 0x00204081u) & 0x01010101u);
  return made;
}

/* Adds 32 counters of `levels` bits, times 2^shift, to sums, or takes them off. */
ONNXC_KERNEL void onnxc_unslice(const uint32_t *counts, int levels, int shift, int negative, int32_t *sums) {
  int c, i;
  for (c = 0; c < 32; c += 4, sums += 4) {
    uint32_t low = onnxc_four(counts, levels < 8 ? levels : 8, c), high = onnxc_four(counts + 8, levels - 8, c);
    for (i = 0; i < 4; i++, low >>= 8, high >>= 8) {
      int32_t found = (int32_t)((low & 255) | (high & 255) << 8) << shift;
      sums[i] += negative ? -found : found;
    }
  }
}

/* The channels of which a count and `add` are within thresholds t, bit by bit as the counts: t of `planes`
 * bits is 0 for never, all ones for always, and sums beyond count as what lies next to those. counts has `levels` bits, `planes` or more. */
ONNXC_KERNEL uint32_t onnxc_slice_test(uint32_t *counts, int levels, int32_t add, const uint32_t *t, int planes) {
  uint32_t carry = 0, high, below, pass = 0xffffffffu, any = 0, all = 0xffffffffu, a;
  int k;
  for (k = 0; k < levels; k++) {
    uint32_t v = counts[k];
    a = onnxc_spread((uint32_t)(add >> k), 0);
    counts[k] = v ^ a ^ carry;
    carry = (v & a) | (carry & (v ^ a));
  }
  a = onnxc_spread((uint32_t)(add >> levels), 0);
  high = a ^ carry, carry = a & carry;
  below = onnxc_spread((uint32_t)(add >> (levels + 1)), 0) ^ carry;
  for (k = planes; k < levels; k++) high |= counts[k];
  for (k = 0; k < planes; k++) {
    uint32_t v = counts[k], w = t[k];
    pass = (w & ~v) | (pass & ~(v ^ w));
    any |= w, all &= w;
  }
  return all | (any & (below | (pass & ~high)));
}

#endif
