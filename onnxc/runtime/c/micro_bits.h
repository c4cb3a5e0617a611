/* micro_bits.h: products of few-bit integers by counting bits.
 *
 * Packed tensors have a plane a bit: [plane][image][row][column][group][word], 64 channels a word of 64 bits, here two of 32;
 * padding is in place. A product is multiplier S + constant, S being the sum over pairs of planes of 2^(i+j) times the bits that
 * are set in x ^ w or x & w (docs/kernels.md).
 */
#ifndef ONNXC_MICRO_BITS_H
#define ONNXC_MICRO_BITS_H

#include "micro_count.h"
#include "micro_pack.h"

/* A step of what follows a sum, in floats: `kind`, the operand that it reads, and numbers. */
enum { ONNXC_ADD, ONNXC_MUL, ONNXC_RELU, ONNXC_CLIP, ONNXC_LEAKY, ONNXC_PRELU, ONNXC_ADD_TENSOR, ONNXC_ADD_ONE, ONNXC_MUL_ONE };
typedef struct {
  int16_t kind, operand;
  float a, b;
} onnxc_step;

/* Thresholds have `width` bytes, 1, 2 or 4; those of one stand for `base` and more, with 0 and 255 for never and always. Where counts
 * are sliced they may be too: 8 or 16 words for 32 channels, which `width` says then. */
#define ONNXC_SLICED(s) ((s)->width >= 8)
typedef struct onnxc_bits_layer {
  int16_t n, oh, ow, oc, groups, kh, kw, sh, sw, dh, dw, h, w, top, left;
  int16_t rows, columns, line, words, used; /* of x; `used` words of a group's `words` are read */
  int16_t xbits, wbits, xnegative, wnegative, how; /* whether the highest plane counts negatively */
  int16_t row_before, row_after, column_before, column_after, row_classes, column_classes;
  int16_t width, rises; /* width 0: no thresholds; `rises`: bit = S >= threshold, else <= */
  int32_t base, inside, plane, multiplier; /* inside: what a tap within x adds to the constant */
  int32_t weights, scratch; /* words of a group's weights; words of work ahead of the sums */
  int16_t sixteens, levels; /* by slices: parts of 16 input channels, bits of a count */
  int16_t table, steps;     /* bytes of a constant, 0 where there are none; steps that follow */
  const onnxc_step *step;
  const onnxc_pack_layer *pack;
  void (*sums)(const struct onnxc_bits_layer *, const uint32_t *, int, int, const uint32_t *, int32_t *, uint32_t *,
               const uint32_t *);
} onnxc_bits_layer;

ONNXC_INLINE int32_t onnxc_number(const void *table, int width, int i) {
  if (width == 1) return ((const uint8_t *)table)[i];
  if (width == 2) return ((const int16_t *)table)[i];
  return ((const int32_t *)table)[i];
}

/* Taps of a pixel's window that lie within x. */
ONNXC_INLINE int onnxc_taps(const onnxc_bits_layer *s, int row, int column) {
  int i, rows = 0, columns = 0;
  for (i = 0; i < s->kh; i++) rows += row + i * s->dh >= s->top && row + i * s->dh < s->top + s->h;
  for (i = 0; i < s->kw; i++) columns += column + i * s->dw >= s->left && column + i * s->dw < s->left + s->w;
  return rows * columns;
}

/* The windows of the pixel at (row, column) of padded x, plane by plane, with a mask behind each word where `masked`. */
ONNXC_KERNEL void onnxc_window(const onnxc_bits_layer *s, const uint32_t *x, int row, int column, int masked, uint32_t *to) {
  int p, i, j, k, used = s->used;
  x += (row * s->columns + column) * s->line;
  for (p = 0; p < s->xbits; p++, x += s->plane)
    for (i = 0; i < s->kh; i++) {
      const uint32_t *at = x + i * s->dh * s->columns * s->line;
      int r = row + i * s->dh - s->top, c = column - s->left;
      for (j = 0; j < s->kw; j++, at += s->dw * s->line, c += s->dw)
        for (k = 0; k < used; k++) {
          *to++ = at[k];
          if (masked) *to++ = r >= 0 && r < s->h && c >= 0 && c < s->w ? 0xffffffffu : 0;
        }
    }
}

/* The sums of a group's output channels of the pixel whose window begins at (row, column) of padded x. w has the words of a window
 * for a channel after the other. work: the window. */
ONNXC_KERNEL void onnxc_by_channel(const onnxc_bits_layer *s, const uint32_t *x, int row, int column, const uint32_t *w,
                                   int32_t *sums, uint32_t *work, const uint32_t *tests) {
  int words = s->kh * s->kw * s->used, i, j, first, most = ONNXC_MOST_WORDS;
  int plain = s->xbits * s->wbits == 1 && s->xnegative == s->wnegative;
  int how = s->how == ONNXC_WITHIN && onnxc_taps(s, row, column) == s->kh * s->kw ? ONNXC_XOR : s->how;
  int wide = how == ONNXC_WITHIN ? 2 : 1;
  onnxc_counter *counter = how == ONNXC_XOR ? onnxc_count_xor : how == ONNXC_AND ? onnxc_count_and : onnxc_count_within;
  int32_t *end = sums + s->oc / s->groups;
  (void)tests;
  onnxc_window(s, x, row, column, wide > 1, work);
  for (; sums != end; sums++) {
    int32_t sum = 0;
    if (plain && words <= most) {
      *sums = counter(work, w, words), w += words;
      continue;
    }
    for (j = 0; j < s->wbits; j++, w += words)
      for (i = 0; i < s->xbits; i++) {
        int32_t found = 0;
        for (first = 0; first < words; first += most)
          found += counter(work + wide * (i * words + first), w + first, words - first < most ? words - first : most);
        found <<= i + j;
        sum += (s->xnegative && i == s->xbits - 1) != (s->wnegative && j == s->wbits - 1) ? -found : found;
      }
    *sums = sum;
  }
}

/* The same by slices. */
ONNXC_KERNEL void onnxc_by_slice(const onnxc_bits_layer *s, const uint32_t *x, int row, int column, const uint32_t *w,
                                 int32_t *sums, uint32_t *counts, const uint32_t *tests) {
  int block, i, j, ky, kx, sixteens = s->sixteens, levels = s->levels, tap = 16 * sixteens, size = tap * s->kh * s->kw;
  int first = 0, last = s->kw, rows = 0, close = s->dw == 1 && s->line == s->used && !(sixteens & 1); /* a row's taps are one run */
  uint32_t *list = counts + levels, *(*slice)(const uint32_t *, const uint32_t *, int, uint32_t *, uint32_t *) =
                                        s->how == ONNXC_AND ? onnxc_slice_and : onnxc_slice_xor;
  x += (row * s->columns + column) * s->line;
  if (!tests) memset(sums, 0, 4 * (size_t)(s->oc / s->groups));
  if (s->how == ONNXC_WITHIN) {
    while (column + first * s->dw < s->left) first++;
    while (last > first && column + (last - 1) * s->dw >= s->left + s->w) last--;
  }
  for (block = s->oc / s->groups / 32; block > 0; block--, sums += tests ? 1 : 32)
    for (j = 0; j < s->wbits; j++, w += size)
      for (i = 0; i < s->xbits; i++) {
        const uint32_t *at = x + i * s->plane;
        uint32_t *end = list;
        memset(counts, 0, 4 * (size_t)levels);
        for (rows = ky = 0; ky < s->kh; ky++, at += s->dh * s->columns * s->line) {
          const uint32_t *weights = w + ky * s->kw * tap;
          int r = row + ky * s->dh - s->top;
          if (s->how == ONNXC_WITHIN && (r < 0 || r >= s->h)) continue;
          rows++;
          if (close)
            end = slice(at + first * s->line, weights + first * tap, (last - first) * sixteens, counts, end);
          else
            for (kx = first; kx < last; kx++)
              end = slice(at + kx * s->dw * s->line, weights + kx * tap, sixteens, counts, end);
        }
        onnxc_count_list(list, end, counts + 4, levels - 4);
        if (tests) {
          int32_t less = s->inside * (s->kh * s->kw - rows * (last - first)) / 2;
          *sums = (int32_t)onnxc_slice_test(counts, levels, less - s->base, tests, s->width);
          tests += s->width;
          continue;
        }
        onnxc_unslice(counts, levels, i + j,
                      (s->xnegative && i == s->xbits - 1) != (s->wnegative && j == s->wbits - 1), sums);
      }
}

/* The bits of a pixel's sums that pass their thresholds; `lower` is what fewer taps take off those. */
ONNXC_KERNEL void onnxc_tests(const onnxc_bits_layer *s, const int32_t *sums, const void *table, const int8_t *flip,
                              int first, int32_t lower, uint32_t *to) {
  const onnxc_pack_layer *p = s->pack;
  int c, g, each = p->c / p->groups, channel = 0;
#ifdef ONNXC_MVE
  if (each % 32 == 0) {
    uint8_t codes[16];
    for (g = 0; g < p->groups; g++, to += p->words)
      for (c = 0; c < each; c += 16) {
        int i;
        for (i = 0; i < 16; i += 4, channel += 4) {
          int32x4_t v = vldrwq_s32(sums + channel), t;
          if (flip) v = veorq_s32(v, vldrbq_s32(flip + channel));
          if (s->width == 1) { /* 0 is below all sums, 255 above */
            const int32x4_t raw = vreinterpretq_s32_u32(vldrbq_u32((const uint8_t *)table + first + channel));
            t = vaddq_n_s32(vsubq_s32(vshlq_n_s32(vshrq_n_s32(vaddq_n_s32(raw, 1), 8), 30), vshlq_n_s32(onnxc_below4(vsubq_n_s32(raw, 1)), 30)), s->base);
            t = vaddq_s32(t, raw);
          } else if (s->width == 2) {
            t = vldrhq_s32((const int16_t *)table + first + channel);
          } else {
            t = vldrwq_s32((const int32_t *)table + first + channel);
          }
          v = s->rises ? veorq_s32(onnxc_below4(vsubq_s32(v, t)), vdupq_n_s32(1)) : onnxc_below4(vsubq_n_s32(vaddq_n_s32(vsubq_s32(v, t), lower), 1));
          vstrbq_s32((int8_t *)codes + i, v);
        }
        onnxc_put16(codes, 1, 0, (uint16_t *)(void *)to + (c >> 4));
      }
    return;
  }
#endif
  for (g = 0; g < p->groups; g++, to += p->words)
    for (c = 0; c < each;) {
      uint32_t made = 0, bit = 1;
      int word = c >> 5;
      for (; bit && c < each; bit <<= 1, c++, channel++) {
        int32_t t = onnxc_number(table, s->width, first + channel), v = sums[channel];
        if (s->width == 1) {
          if (t == 0 || t == 255) {
            made |= (t == 255) != s->rises ? bit : 0;
            continue;
          }
          t += s->base;
        }
        v ^= flip ? flip[channel] : 0;
        made |= (s->rises ? v >= t : v <= t - lower) ? bit : 0;
      }
      to[word] = made;
    }
}

/* A pixel's words of 32 channels; groups have whole words. */
ONNXC_KERNEL void onnxc_store_words(const onnxc_pack_layer *p, const uint32_t *from, uint32_t *to) {
  int g, k, count = p->c / p->groups / 32;
  for (g = 0; g < p->groups; g++, to += p->words)
    for (k = 0; k < count; k++) to[k] = *from++;
}

/* The steps on a pixel's numbers. */
ONNXC_KERNEL void onnxc_steps(const onnxc_bits_layer *s, float *v, const void *const *operands, int pixel) {
  int i, c, count = s->oc;
  for (i = 0; i < s->steps; i++) {
    const onnxc_step *t = s->step + i;
    const float *o = t->operand < 0 ? NULL : (const float *)operands[t->operand];
    float a = t->a, b = t->b;
    if (t->kind == ONNXC_ADD_TENSOR) o += pixel * count;
#ifdef ONNXC_MVE
#define ONNXC_FOURS(kind, value)                                                   \
  case kind:                                                                       \
    for (c = 0; c < count; c += 4) {                                               \
      const mve_pred16_t p = vctp32q((uint32_t)(count - c));                       \
      const float32x4_t u = vldrwq_z_f32(v + c, p);                                \
      vstrwq_p_f32(v + c, (value), p);                                             \
    }                                                                              \
    continue
    switch (t->kind) {
      ONNXC_FOURS(ONNXC_ADD, vaddq_f32(u, vldrwq_z_f32(o + c, p)));
      ONNXC_FOURS(ONNXC_ADD_TENSOR, vaddq_f32(u, vldrwq_z_f32(o + c, p)));
      ONNXC_FOURS(ONNXC_MUL, vmulq_f32(u, vldrwq_z_f32(o + c, p)));
      ONNXC_FOURS(ONNXC_ADD_ONE, vaddq_n_f32(u, a));
      ONNXC_FOURS(ONNXC_MUL_ONE, vmulq_n_f32(u, a));
    }
#endif
#define ONNXC_EACH(kind, value) \
  case kind:                    \
    for (c = 0; c < count; c++) v[c] = (value); \
    break
    switch (t->kind) {
      ONNXC_EACH(ONNXC_ADD, v[c] + o[c]);
      ONNXC_EACH(ONNXC_ADD_TENSOR, v[c] + o[c]);
      ONNXC_EACH(ONNXC_MUL, v[c] * o[c]);
      ONNXC_EACH(ONNXC_RELU, v[c] > 0 ? v[c] : 0);
      ONNXC_EACH(ONNXC_CLIP, v[c] < a ? a : v[c] > b ? b : v[c]);
      ONNXC_EACH(ONNXC_LEAKY, v[c] > 0 ? v[c] : v[c] * a);
      ONNXC_EACH(ONNXC_PRELU, v[c] > 0 ? v[c] : v[c] * o[c]);
      ONNXC_EACH(ONNXC_ADD_ONE, v[c] + a);
      ONNXC_EACH(ONNXC_MUL_ONE, v[c] * a);
    }
  }
}

ONNXC_INLINE int onnxc_class(int at, int out, int before, int after) {
  int late = at - (out - after - 1);
  return (at < before ? at : before) + (after && late > 0 ? late : 0);
}

/* Products of few bits. work: the windows of a pixel and their mask, then its sums, which become floats in place. */
ONNXC_KERNEL void onnxc_bits(const onnxc_bits_layer *s, const void *x, const void *w, const void *table, const void *flip,
                             const void *o0, const void *o1, const void *o2, const void *o3, const void *scale, void *y,
                             void *packed, void *work) {
  const void *operands[4];
  int each = s->oc / s->groups, taps = s->kh * s->kw, n, row, column, g, c, pixel = 0;
  uint32_t *window = (uint32_t *)work;
  int32_t *sums = (int32_t *)(window + s->scratch);
  float *to = (float *)y;
  operands[0] = o0, operands[1] = o1, operands[2] = o2, operands[3] = o3;
  if (packed) onnxc_padding(s->pack, (uint32_t *)packed);
  for (n = 0; n < s->n; n++)
    for (row = 0; row < s->oh; row++)
      for (column = 0; column < s->ow; column++, pixel++) {
        int within = s->how == ONNXC_WITHIN ? onnxc_taps(s, row * s->sh, column * s->sw) : taps;
        int first = onnxc_class(row, s->oh, s->row_before, s->row_after) * s->column_classes;
        int32_t missing;
        first = (first + onnxc_class(column, s->ow, s->column_before, s->column_after)) * s->oc;
        for (g = 0; g < s->groups; g++) {
          const uint32_t *from = (const uint32_t *)x + n * s->rows * s->columns * s->line + g * s->words;
          const uint32_t *tests = ONNXC_SLICED(s) ? (const uint32_t *)table + g * each / 32 * s->width : NULL;
          s->sums(s, from, row * s->sh, column * s->sw, (const uint32_t *)w + g * s->weights,
                  sums + (tests ? g * each / 32 : g * each), window, tests);
        }
        if (ONNXC_SLICED(s)) {
          onnxc_store_words(s->pack, (const uint32_t *)(const void *)sums, onnxc_pixel(s->pack, (uint32_t *)packed, n, row, column));
          continue;
        }
        missing = s->inside * (taps - within);
        if (s->width) {
          onnxc_tests(s, sums, table, (const int8_t *)flip, first, missing / 2, onnxc_pixel(s->pack, (uint32_t *)packed, n, row, column));
          continue;
        }
#ifdef ONNXC_MVE
        for (c = 0; c < s->oc; c += 4) {
          const mve_pred16_t p = vctp32q((uint32_t)(s->oc - c));
          int32x4_t v = vmulq_n_s32(vldrwq_z_s32(sums + c, p), s->multiplier);
          v = vaddq_s32(v, s->table == 2   ? vldrhq_z_s32((const int16_t *)table + first + c, p)
                           : s->table == 4 ? vldrwq_z_s32((const int32_t *)table + first + c, p)
                                           : vdupq_n_s32(s->inside * within));
          vstrwq_p_f32((float *)(void *)(sums + c), vcvtq_f32_s32(v), p);
        }
#else
        for (c = 0; c < s->oc; c++) {
          int32_t more = s->table == 2 ? ((const int16_t *)table)[first + c] : s->table ? onnxc_number(table, s->table, first + c) : s->inside * within;
          float v = (float)(s->multiplier * sums[c] + more);
          memcpy(sums + c, &v, 4);
        }
#endif
        onnxc_steps(s, (float *)(void *)sums, operands, pixel);
        if (to) memcpy(to, sums, 4 * (size_t)s->oc), to += s->oc;
        if (packed) onnxc_pack_pixel(s->pack, (const float *)(const void *)sums, (const float *)scale, onnxc_pixel(s->pack, (uint32_t *)packed, n, row, column));
      }
}

#endif
