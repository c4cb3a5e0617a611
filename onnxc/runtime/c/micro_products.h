/* micro_products.h: convolutions, matrix products and depthwise layers of 8-bit integers. */
#ifndef ONNXC_MICRO_PRODUCTS_H
#define ONNXC_MICRO_PRODUCTS_H

#ifdef ONNXC_HELIUM
#include "micro_helium.h"
#else
#include "micro_dsp.h"
#include "micro_planes.h"

/* `count` quarters from x on. */
ONNXC_KERNEL uint32_t *onnxc_widen_run(const int8_t *x, uint32_t flip, int count, uint32_t *to, int gap) {
  const int8_t *end = x + 4 * count;
  for (; x != end; x += 4) to = onnxc_widen(onnxc_load(x) ^ flip, to, gap);
  return to;
}

ONNXC_KERNEL uint32_t *onnxc_fill_run(uint32_t pad, int count, uint32_t *to, int gap) {
  for (; count > 0; count--) to = onnxc_widen(pad, to, gap);
  return to;
}

/* The column of output pixel (row, column) at `to`: what the kernel's window covers. `bytes` is scratch. */
ONNXC_KERNEL void onnxc_column(const onnxc_conv_layer *s, const int8_t *x, int row, int column, uint32_t *to,
                               int gap, int8_t *bytes) {
  int ky, kx, c = s->c, iy = row * s->sh - s->top, left = column * s->sw - s->left;
  if ((c & 3) && s->kh == 1 && s->kw == 1 && iy >= 0 && iy < s->h && left >= 0 && left < s->w) { /* a pixel, and its rest */
    const int8_t *from = x + (iy * s->w + left) * c, *end = from + c;
    uint32_t rest = 0; /* what fills it up is multiplied with zero */
    to = onnxc_widen_run(from, s->flip, c >> 2, to, gap);
    while (end != from + (c & ~3)) rest = rest << 8 | (uint8_t)*--end;
    onnxc_widen(rest ^ s->flip, to, gap);
    return;
  }
  if (c & 3) { /* bytes first: windows of a few channels begin and end anywhere */
    const int whole = s->dw == 1 && left >= 0 && left + s->kw <= s->w, wide = s->kw * c;
    const int8_t *last = x + s->h * s->w * c - wide - 3;
    int8_t *at = bytes;
    for (ky = s->kh; ky > 0; ky--, iy += s->dh, at += wide) {
      const int8_t *from = x + (iy * s->w + left) * c;
      int8_t *to_byte = at, *end = at + wide;
      int inside = iy >= 0 && iy < s->h, ix = left, i;
      if (inside && whole && from <= last) { /* by words, of which the last has more, but within x */
        for (; to_byte < end; to_byte += 4, from += 4) onnxc_store(to_byte, onnxc_load(from));
        continue;
      }
      for (kx = s->kw; kx > 0; kx--, ix += s->dw, from += s->dw * c)
        for (i = 0; i < c; i++) *to_byte++ = inside && ix >= 0 && ix < s->w ? from[i] : (int8_t)((uint32_t)s->pad ^ s->flip);
    }
    onnxc_widen_run(bytes, s->flip, s->steps, to, gap);
    return;
  }
  for (ky = 0; ky < s->kh; ky++, iy += s->dh) {
    int ix = left;
    const int8_t *line = x + iy * s->w * c;
    if (iy < 0 || iy >= s->h) {
      to = onnxc_fill_run((uint32_t)s->pad, s->kw * c >> 2, to, gap);
    } else if (s->dw == 1 && ix >= 0 && ix + s->kw <= s->w) {
      to = onnxc_widen_run(line + ix * c, s->flip, s->kw * c >> 2, to, gap);
    } else {
      for (kx = 0; kx < s->kw; kx++, ix += s->dw)
        to = ix >= 0 && ix < s->w ? onnxc_widen_run(line + ix * c, s->flip, c >> 2, to, gap)
                                  : onnxc_fill_run((uint32_t)s->pad, c >> 2, to, gap);
    }
  }
}

/* The columns of four pixels of a 1x1 layer without padding, of whole words. */
#ifdef ONNXC_ASSEMBLER
ONNXC_KERNEL void onnxc_columns4(const int8_t *const *x, uint32_t flip, int steps, uint32_t *to) {
  const int8_t *p0 = x[0], *p1 = x[1], *p2 = x[2], *p3 = x[3], *end = p0 + 4 * steps;
  for (; p0 != end; to += 8) {
    uint32_t v0 = onnxc_load(p0) ^ flip, v1 = onnxc_load(p1) ^ flip, v2 = onnxc_load(p2) ^ flip, v3 = onnxc_load(p3) ^ flip;
    p0 += 4, p1 += 4, p2 += 4, p3 += 4;
    to[0] = onnxc_even(v0), to[1] = onnxc_even(v1), to[2] = onnxc_even(v2), to[3] = onnxc_even(v3);
    to[4] = onnxc_odd(v0), to[5] = onnxc_odd(v1), to[6] = onnxc_odd(v2), to[7] = onnxc_odd(v3);
  }
}
#endif

/* The products of a column, of two, or of four (micro_dsp.h), with all output channels. w: for each two of them the pairs of a
 * column, a word a pair: bytes (c0 k0) (c1 k0) (c0 k1) (c1 k1). scales: the table. */
#ifdef ONNXC_ASSEMBLER
#define ONNXC_MOST 4 /* pixels at once; others one by one */
#define ONNXC_GAP(pixels) (pixels)
ONNXC_INLINE void onnxc_product(const onnxc_conv_layer *s, const uint32_t *columns, int pixels, const int8_t *w,
                                const int32_t *scales, int8_t *y, int line) {
  const uint32_t *words = (const uint32_t *)(const void *)w, *end = columns + 2 * pixels * s->steps;
  const int32_t *rows = scales + 2, *last = rows + 4 * ((s->oc + 1) >> 1);
  if (pixels > 1)
    onnxc_product4(columns, words, rows, last, y, line, end, scales[0], -s->steps & 3);
  else
    onnxc_product1(columns, words, rows, last, y, end, scales[0], -s->steps & 3);
}
#else
#define ONNXC_MOST 2
#ifdef ONNXC_SMALL /* a pixel alone is computed as two, the second of which is nothing, and lies under the first */
#define ONNXC_GAP(pixels) 2
#else
#define ONNXC_GAP(pixels) (pixels)
#define ONNXC_STEP1(i)                          \
  ONNXC_LOAD2(x, 2 * (i), x0, x1);              \
  ONNXC_LOAD2(w, 2 * (i), v, u);                \
  a0 = onnxc_dot2(onnxc_even(v), x0, a0);       \
  a1 = onnxc_dot2(onnxc_odd(v), x0, a1);        \
  a0 = onnxc_dot2(onnxc_even(u), x1, a0);       \
  a1 = onnxc_dot2(onnxc_odd(u), x1, a1);        \
  ONNXC_LOAD2(other, 2 * (i), v, u);            \
  a2 = onnxc_dot2(onnxc_even(v), x0, a2);       \
  a3 = onnxc_dot2(onnxc_odd(v), x0, a3);        \
  a2 = onnxc_dot2(onnxc_even(u), x1, a2);       \
  a3 = onnxc_dot2(onnxc_odd(u), x1, a3)
ONNXC_KERNEL void onnxc_product1(const onnxc_conv_layer *s, const uint32_t *column, const uint32_t *w,
                                 const int32_t *scales, int8_t *y) {
  const int32_t offset = scales[0], shift = scales[1];
  const uint32_t *end = column + 2 * s->steps;
  int left = s->oc, i;
  for (scales += 2; left > 0; left -= 4, y += 4, scales += 8) {
    const uint32_t *x = column, *other = left > 2 ? w + 2 * s->steps : w;
    const int32_t *more = left > 2 ? scales + 4 : scales;
    int32_t a0 = scales[0], a1 = scales[2], a2 = more[0], a3 = more[2];
    uint32_t x0, x1, v, u;
    for (i = s->steps & 3; i > 0; i--) {
      ONNXC_STEP1(0);
      x += 2, w += 2, other += 2;
    }
    while (x != end) {
      ONNXC_STEP1(0);
      ONNXC_STEP1(1);
      ONNXC_STEP1(2);
      ONNXC_STEP1(3);
      x += 8, w += 8, other += 8;
    }
    w = other;
    onnxc_requantise2(&a0, &a1, scales[1], scales[3], offset, shift);
    y[0] = (int8_t)a0, y[1] = (int8_t)a1;
    if (left > 2) {
      onnxc_requantise2(&a2, &a3, more[1], more[3], offset, shift);
      y[2] = (int8_t)a2, y[3] = (int8_t)a3;
    }
  }
}

#endif

#define ONNXC_STEP2(i)                                                  \
  ONNXC_LOAD2(x, 4 * (i), x0, x1);                                      \
  ONNXC_LOAD2(w, 2 * (i), v, u);                                        \
  t = onnxc_even(v), v = onnxc_odd(v);                                  \
  a0 = onnxc_dot2(t, x0, a0), b0 = onnxc_dot2(t, x1, b0);               \
  a1 = onnxc_dot2(v, x0, a1), b1 = onnxc_dot2(v, x1, b1);               \
  ONNXC_LOAD2(x, 4 * (i) + 2, x0, x1);                                  \
  t = onnxc_even(u), u = onnxc_odd(u);                                  \
  a0 = onnxc_dot2(t, x0, a0), b0 = onnxc_dot2(t, x1, b0);               \
  a1 = onnxc_dot2(u, x0, a1), b1 = onnxc_dot2(u, x1, b1)
ONNXC_KERNEL void onnxc_product2(const onnxc_conv_layer *s, const uint32_t *columns, const uint32_t *w,
                                 const int32_t *scales, int8_t *y, int line) {
  const int32_t *ends = scales, *last = scales + 2 * s->oc;
  const uint32_t *end = columns + 4 * s->steps;
  for (scales += 2; scales <= last; y += 2, scales += 4) {
    const uint32_t *x = columns;
    int32_t a0 = scales[0], a1 = scales[2], b0 = a0, b1 = a1, offset, shift;
    uint32_t x0, x1, v, t, u;
#ifdef ONNXC_SMALL
    while (x != end) {
      ONNXC_STEP2(0);
      x += 4, w += 2;
    }
#else
    if (s->steps & 1) {
      ONNXC_STEP2(0);
      x += 4, w += 2;
    }
    if (s->steps & 2) {
      ONNXC_STEP2(0);
      ONNXC_STEP2(1);
      x += 8, w += 4;
    }
    while (x != end) {
      ONNXC_STEP2(0);
      ONNXC_STEP2(1);
      ONNXC_STEP2(2);
      ONNXC_STEP2(3);
      x += 16, w += 8;
    }
#endif
    offset = ends[0], shift = ends[1];
    onnxc_requantise2(&a0, &b0, scales[1], scales[1], offset, shift);
    onnxc_requantise2(&a1, &b1, scales[3], scales[3], offset, shift);
    y[line] = (int8_t)b0, y[0] = (int8_t)a0;
    y[line + 1] = (int8_t)b1, y[1] = (int8_t)a1;
  }
}

ONNXC_INLINE void onnxc_product(const onnxc_conv_layer *s, const uint32_t *columns, int pixels, const int8_t *w,
                                const int32_t *scales, int8_t *y, int line) {
#ifdef ONNXC_SMALL
  onnxc_product2(s, columns, (const uint32_t *)(const void *)w, scales, y, pixels > 1 ? line : 0);
#else
  if (pixels > 1)
    onnxc_product2(s, columns, (const uint32_t *)(const void *)w, scales, y, line);
  else
    onnxc_product1(s, columns, (const uint32_t *)(const void *)w, scales, y);
#endif
}
#endif

/* Convolutions and matrix products; a product of (m, k) has m columns of one row. ONNXC_MOST output pixels a time, whose columns
 * stand in `work`: y may lie over the x of a 1x1 layer as long as no pixel is written before it is read. */
ONNXC_KERNEL void onnxc_conv(const onnxc_conv_layer *s, const void *x, const void *w, const void *scales, const void *r,
                             void *y, void *work) {
  const int8_t *residual = (const int8_t *)r;
  int8_t *to = (int8_t *)y;
  uint32_t *columns = (uint32_t *)work;
  int left = s->oh * s->ow, row = 0, column = 0, apart = s->end != NULL || (s->oc & 1), i; /* channels are made in pairs */
  int8_t *bytes = (int8_t *)(columns + 2 * (left < ONNXC_MOST ? ONNXC_GAP(1) : ONNXC_MOST) * s->steps); /* a column's, then pixels of y */
#ifdef ONNXC_ASSEMBLER
  const int words = s->kh * s->kw == 1 && !(s->c & 3) && !(s->top | s->left) && (s->oh - 1) * s->sh < s->h && (s->ow - 1) * s->sw < s->w;
  const int step = s->sw * s->c, skip = s->sh * s->w * s->c - s->ow * step;
  const int8_t *pixel = (const int8_t *)x;
#endif
  while (left > 0) {
    int pixels = left < ONNXC_MOST ? 1 : ONNXC_MOST, line = apart ? s->oc + 1 : s->oc;
    int8_t *made = apart ? bytes : to;
#ifdef ONNXC_ASSEMBLER
    const int8_t *at[ONNXC_MOST];
    if (words && pixels > 1) {
      for (i = 0; i < ONNXC_MOST; i++, pixel += step) {
        at[i] = pixel;
        if (++column == s->ow) column = 0, row++, pixel += skip;
      }
      onnxc_columns4(at, s->flip, s->steps, columns);
    } else
#endif
      for (i = 0; i < pixels; i++) {
        onnxc_column(s, (const int8_t *)x, row, column, columns + i, ONNXC_GAP(pixels), bytes);
        if (++column == s->ow) column = 0, row++;
      }
    onnxc_product(s, columns, pixels, (const int8_t *)w, (const int32_t *)scales, made, line);
    if (!apart) to += pixels * s->oc;
    for (i = 0; apart && i < pixels; i++, to += s->oc) {
      if (s->end)
        onnxc_more(s->end, made + i * line, residual, to, s->oc);
      else
        memcpy(to, made + i * line, (size_t)s->oc);
      if (residual) residual += s->oc;
    }
    left -= pixels;
  }
}

ONNXC_INLINE uint32_t onnxc_pair(int a, int b) { return (uint32_t)(uint16_t)a | (uint32_t)b << 16; }

/* Adds a product of 16 bits of a and of b to the sum: of their low (b) or high ones (t). */
#if defined(ONNXC_DSP) && defined(__GNUC__)
#define ONNXC_SMLA(which, a, b, sum) __asm__("smla" #which " %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b))
#else
#define ONNXC_LOW_b(v) ((int32_t)(int16_t)(v))
#define ONNXC_LOW_t(v) ((int32_t)(v) >> 16)
#define ONNXC_SMLA(which, a, b, sum) ONNXC_SMLA_##which(a, b, sum)
#define ONNXC_SMLA_bb(a, b, sum) ((sum) += ONNXC_LOW_b(a) * ONNXC_LOW_b(b))
#define ONNXC_SMLA_bt(a, b, sum) ((sum) += ONNXC_LOW_b(a) * ONNXC_LOW_t(b))
#define ONNXC_SMLA_tb(a, b, sum) ((sum) += ONNXC_LOW_t(a) * ONNXC_LOW_b(b))
#define ONNXC_SMLA_tt(a, b, sum) ((sum) += ONNXC_LOW_t(a) * ONNXC_LOW_t(b))
#endif

ONNXC_INLINE int8_t onnxc_window_sum(const onnxc_depthwise_layer *s, const int8_t *x, const int8_t *w, const int32_t *ends,
                                     const int32_t *scale) {
  int32_t sum = scale[0];
  int i, j;
  for (i = s->kh; i > 0; i--, x += s->dh * s->line - s->kw * s->dw)
    for (j = s->kw; j > 0; j--, x += s->dw) sum += *x * *w++;
  return (int8_t)onnxc_requantise(sum, scale[1], ends[0], ends[1]);
}

ONNXC_KERNEL void onnxc_depthwise_any(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w,
                                      const int32_t *ends, const int32_t *scale, int8_t *y) {
  int row, column, c = s->c;
  for (row = s->oh; row > 0; row--, plane += s->sh * s->line)
    for (column = 0; column < s->ow; column++, y += c) *y = onnxc_window_sum(s, plane + column * s->sw, w, ends, scale);
}

/* 3 x 3 without dilation on a plane: two outputs of a row at once with stride 1. Of an odd number the last pair's second lands where
 * the next row's first does later; the very last is made by itself. */
#define ONNXC_TAPS3                                                                                                   \
  const uint32_t o0 = onnxc_pair(w[0], w[2]), o1 = onnxc_pair(w[3], w[5]), o2 = onnxc_pair(w[6], w[8]);               \
  const uint32_t i01 = onnxc_pair(w[1], w[4]), i2 = (uint32_t)w[7];                                                   \
  const int line = s->line, c = s->c;                                                                                 \
  const int32_t bias = scale[0], m = scale[1], offset = ends[0], shift = ends[1]

ONNXC_KERNEL void onnxc_depthwise3_pairs(const onnxc_depthwise_layer *s, const int8_t *x, const int8_t *w, const int32_t *ends,
                                         const int32_t *scale, int8_t *y) {
  ONNXC_TAPS3;
  const int odd = s->ow & 1, skip = s->sh * line - s->ow - odd, back = odd ? c : 0;
  int rows = s->oh;
  for (; rows > 0; rows--, x += skip, y -= back) {
    const int8_t *end = x + s->ow + odd;
    if (rows == 1) end -= 2 * odd;
    for (; x != end; x += 2, y += 2 * c) {
      uint32_t v, e, d;
      int32_t a, b;
      v = onnxc_load(x), e = onnxc_even(v), d = onnxc_odd(v);
      a = onnxc_dot2(e, o0, bias), b = onnxc_dot2(d, o0, bias);
      ONNXC_SMLA(bb, d, i01, a);
      ONNXC_SMLA(tb, e, i01, b);
      v = onnxc_load(x + line), e = onnxc_even(v), d = onnxc_odd(v);
      a = onnxc_dot2(e, o1, a), b = onnxc_dot2(d, o1, b);
      ONNXC_SMLA(bt, d, i01, a);
      ONNXC_SMLA(tt, e, i01, b);
      v = onnxc_load(x + 2 * line), e = onnxc_even(v), d = onnxc_odd(v);
      a = onnxc_dot2(e, o2, a), b = onnxc_dot2(d, o2, b);
      ONNXC_SMLA(bb, d, i2, a);
      ONNXC_SMLA(tb, e, i2, b);
      onnxc_requantise2(&a, &b, m, m, offset, shift);
      y[0] = (int8_t)a, y[c] = (int8_t)b;
    }
    if (rows == 1 && odd) *y = onnxc_window_sum(s, x, w, ends, scale);
  }
}

ONNXC_KERNEL void onnxc_depthwise3(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w,
                                   const int32_t *ends, const int32_t *scale, int8_t *y) {
  ONNXC_TAPS3;
  const int step = s->sw, skip = s->sh * line - s->ow * step;
  int rows = s->oh;
  const int8_t *x = plane;
  for (; rows > 0; rows--, x += skip) {
    const int8_t *end = x + s->ow * step;
    for (; x != end; x += step, y += c) {
      uint32_t v, d;
      int32_t a;
      v = onnxc_load(x), d = onnxc_odd(v), a = onnxc_dot2(onnxc_even(v), o0, bias);
      ONNXC_SMLA(bb, d, i01, a);
      v = onnxc_load(x + line), d = onnxc_odd(v), a = onnxc_dot2(onnxc_even(v), o1, a);
      ONNXC_SMLA(bt, d, i01, a);
      v = onnxc_load(x + 2 * line), d = onnxc_odd(v), a = onnxc_dot2(onnxc_even(v), o2, a);
      ONNXC_SMLA(bb, d, i2, a);
      *y = (int8_t)onnxc_requantise(a, m, offset, shift);
    }
  }
}

ONNXC_KERNEL void onnxc_depthwise(const onnxc_depthwise_layer *s, const void *x, const void *w, const void *scales, void *y,
                                  void *work) {
  const int three = s->kh == 3 && s->kw == 3 && s->dh == 1 && s->dw == 1;
  onnxc_by_planes(s, x, w, scales, y, work, !three ? onnxc_depthwise_any : s->sw > 1 ? onnxc_depthwise3 : onnxc_depthwise3_pairs);
}

#endif
#endif
