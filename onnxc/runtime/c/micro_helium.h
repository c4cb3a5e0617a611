/* micro_helium.h: convolutions and matrix products by Arm's vectors of microcontrollers (MVE), 16 products an instruction;
 * without the compiler's intrinsics the same layers, weights and tables in plain C.
 *
 * A table of scales has z and 0, then for each four channels their biases and their factors.
 */
#ifndef ONNXC_MICRO_HELIUM_H
#define ONNXC_MICRO_HELIUM_H

#include "micro_layers.h"

#ifdef ONNXC_MVE
/* Four sums as bytes: m float(sum), rounded to even, + offset, saturated; bytes in the lowest parts of the lanes. */
ONNXC_INLINE int32x4_t onnxc_bytes4(int32x4_t sums, float32x4_t m, int32_t offset) {
  int32x4_t v = vaddq_n_s32(vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), m)), offset);
  __asm__("vqmovnb.s32 %q0, %q0\n\tvqmovnb.s16 %q0, %q0" : "+w"(v));
  return v;
}

/* The sums of `count` products, more than 0, of x with four rows of weights; what is beyond the last counts as zeros. */
ONNXC_INLINE int32x4_t onnxc_dots(const int8_t *x, const int8_t *w0, const int8_t *w1, const int8_t *w2, const int8_t *w3, int count) {
  int32_t a = 0, b = 0, c = 0, d = 0;
  int32x4_t v;
  __asm__ volatile(
      "wlstp.8 lr, %[count], 2f\n"
      "1:\n\tvldrb.8 q0, [%[x]], #16\n\t"
      "vldrb.8 q1, [%[w0]], #16\n\tvmladava.s8 %[a], q0, q1\n\t"
      "vldrb.8 q2, [%[w1]], #16\n\tvmladava.s8 %[b], q0, q2\n\t"
      "vldrb.8 q1, [%[w2]], #16\n\tvmladava.s8 %[c], q0, q1\n\t"
      "vldrb.8 q2, [%[w3]], #16\n\tvmladava.s8 %[d], q0, q2\n\t"
      "letp lr, 1b\n2:"
      : [a] "+Te"(a), [b] "+Te"(b), [c] "+Te"(c), [d] "+Te"(d), [x] "+r"(x), [w0] "+r"(w0), [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3)
      : [count] "r"(count)
      : "q0", "q1", "q2", "lr", "memory");
  __asm__("vmov %q0[2], %q0[0], %1, %3\n\tvmov %q0[3], %q0[1], %2, %4" : "=&w"(v) : "r"(a), "r"(b), "r"(c), "r"(d));
  return v;
}

/* Bytes x[at[0]] to x[at[3]]. */
ONNXC_INLINE int32x4_t onnxc_gather(const int8_t *x, uint32x4_t at) {
  int32x4_t v;
  __asm__ volatile("vldrb.s32 %q0, [%1, %q2]" : "=&w"(v) : "r"(x), "w"(at) : "memory");
  return v;
}
#endif

/* `count` bytes of x; to + count. */
ONNXC_INLINE int8_t *onnxc_copy(const int8_t *x, uint32_t flip, int count, int8_t *to) {
  int8_t *end = to + count;
#ifdef ONNXC_MVE
  int8x16_t f = vdupq_n_s8((int8_t)(flip & 255));
  for (; count >= 16; count -= 16, x += 16, to += 16) vstrbq_s8(to, veorq_s8(vldrbq_s8(x), f));
  if (count > 0) {
    mve_pred16_t p = vctp8q((uint32_t)count);
    vstrbq_p_s8(to, veorq_s8(vldrbq_z_s8(x, p), f), p);
  }
#else
  while (to != end) *to++ = (int8_t)((uint8_t)*x++ ^ (flip & 255));
#endif
  return end;
}

/* The column of output pixel (row, column): what the kernel's window covers. */
ONNXC_KERNEL void onnxc_column(const onnxc_conv_layer *s, const int8_t *x, int row, int column, int8_t *to) {
  int ky, kx, c = s->c, iy = row * s->sh - s->top, left = column * s->sw - s->left;
  for (ky = 0; ky < s->kh; ky++, iy += s->dh) {
    int ix = left;
    const int8_t *line = x + iy * s->w * c;
    if (iy < 0 || iy >= s->h) {
      memset(to, (int)(s->pad & 255), (size_t)(s->kw * c));
      to += s->kw * c;
    } else if (s->dw == 1 && ix >= 0 && ix + s->kw <= s->w) {
      to = onnxc_copy(line + ix * c, s->flip, s->kw * c, to);
    } else {
      for (kx = 0; kx < s->kw; kx++, ix += s->dw) {
        if (ix >= 0 && ix < s->w)
          to = onnxc_copy(line + ix * c, s->flip, c, to);
        else
          memset(to, (int)(s->pad & 255), (size_t)c), to += c;
      }
    }
  }
}

/* The products of a column of `count` bytes with all output channels. w: the bytes of each channel's window. */
ONNXC_KERNEL void onnxc_product(const int8_t *column, int count, const int8_t *w, const int32_t *scales, int8_t *y, int left) {
  const int32_t offset = scales[0];
#ifdef ONNXC_MVE
  for (scales += 2; left > 0; left -= 4, y += 4, scales += 8, w += 4 * count) {
    const int8_t *w1 = left > 1 ? w + count : w, *w2 = left > 2 ? w1 + count : w, *w3 = left > 3 ? w2 + count : w;
    int32x4_t v = vaddq_s32(onnxc_dots(column, w, w1, w2, w3, count), vldrwq_s32(scales));
    v = onnxc_bytes4(v, vldrwq_f32((const float *)(const void *)(scales + 4)), offset);
    if (left >= 4)
      vstrbq_s32(y, v);
    else
      vstrbq_p_s32(y, v, vctp32q((uint32_t)left));
  }
#else
  int i, n;
  for (scales += 2, n = 0; n < left; n++, scales += n & 3 ? 1 : 5) {
    int32_t sum = scales[0];
    for (i = 0; i < count; i++) sum += column[i] * *w++;
    y[n] = (int8_t)onnxc_requantise(sum, scales[4], offset, 0);
  }
#endif
}

/* An output pixel a time, whose column stands in `work`: y may lie over the x of a 1x1 layer as long as no pixel is written before
 * it is read. */
ONNXC_KERNEL void onnxc_conv(const onnxc_conv_layer *s, const void *x, const void *w, const void *scales, const void *r,
                             void *y, void *work) {
  const int8_t *residual = (const int8_t *)r;
  int8_t *to = (int8_t *)y, *columns = (int8_t *)work, *apart = columns + 4 * s->steps;
  int row, column, count = s->kh * s->kw * s->c;
  const int own = s->oc <= 4 && count == s->c && !s->flip && !s->top && !s->left && (s->oh - 1) * s->sh < s->h && (s->ow - 1) * s->sw < s->w;
  for (row = 0; row < s->oh; row++)
    for (column = 0; column < s->ow; column++, to += s->oc) {
      const int8_t *pixel = (const int8_t *)x + (row * s->sh * s->w + column * s->sw) * s->c; /* read before y is written: its own column */
      if (!own) onnxc_column(s, (const int8_t *)x, row, column, columns);
      onnxc_product(own ? pixel : columns, count, (const int8_t *)w, (const int32_t *)scales, s->end ? apart : to, s->oc);
      if (s->end) onnxc_more(s->end, apart, residual, to, s->oc);
      if (residual) residual += s->oc;
    }
}

#include "micro_helium_held.h"
#include "micro_helium_depthwise.h"
#include "micro_helium_depthwise3.h"

#endif
