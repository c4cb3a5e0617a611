/* micro_helium_depthwise.h: depthwise layers of any window by Arm's vectors of microcontrollers, a channel's plane at a time. */
#ifndef ONNXC_MICRO_HELIUM_DEPTHWISE_H
#define ONNXC_MICRO_HELIUM_DEPTHWISE_H

#include "micro_planes.h"

#ifdef ONNXC_MVE
/* Adds the products of any taps of four outputs, which stand side by side or at offsets: `next` loads four. */
#define ONNXC_ANY(next, x)                                                  \
  for (i = s->kh, k = w, from = (x); i > 0; i--, from += s->dh * line - s->kw * s->dw) \
    for (j = s->kw; j > 0; j--, k++, from += s->dw) v = vmlaq_n_s32(v, next(from), *k)
#define ONNXC_AT(x) onnxc_gather(x, at)

ONNXC_KERNEL void onnxc_channel(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w, const int32_t *ends,
                                const int32_t *scale, int8_t *y) {
  const int line = s->line, offset = ends[0], ow = s->ow, step = 4 * s->sw, far = 4 * s->c;
  const uint32x4_t four = vidupq_n_u32(0, 1), apart = vmulq_n_u32(four, (uint32_t)s->c);
  const float32x4_t m = vreinterpretq_f32_s32(vdupq_n_s32(scale[4]));
  const int8_t *k, *from;
  int i, j, left;
  if (s->sw == 1 && (ow >= 16 || !(ow & 3))) { /* four of a row */
    int row;
    for (row = s->oh; row > 0; row--, plane += s->sh * line) {
      const int8_t *x = plane;
      for (left = ow; left > 0; left -= 4, x += 4) {
        int32x4_t v = vdupq_n_s32(scale[0]);
        ONNXC_ANY(vldrbq_s32, x);
        v = onnxc_bytes4(v, m, offset);
        if (left < 4) {
          vstrbq_scatter_offset_p_s32(y, apart, v, vctp32q((uint32_t)left));
          y += left * s->c;
          break;
        }
        vstrbq_scatter_offset_s32(y, apart, v);
        y += far;
      }
    }
  } else { /* four in a row or more: where each reads, and its column */
    uint32x4_t at = vmulq_n_u32(four, (uint32_t)s->sw), column = four;
    const uint32_t wrap = (uint32_t)(s->sh * line - ow * s->sw);
    for (left = s->oh * ow; left > 0; left -= 4, y += far) {
      int32x4_t v = vdupq_n_s32(scale[0]);
      for (i = ow < 4 ? 4 : 1; i > 0; i -= ow) { /* P0 is the compiler's, too */
        uint32_t p0;
        __asm__("vmrs %2, p0\n\tvptt.u32 cs, %q0, %4\n\tvaddt.i32 %q1, %q1, %3\n\tvsubt.i32 %q0, %q0, %4\n\tvmsr p0, %2"
                : "+w"(column), "+w"(at), "=&r"(p0) : "r"(wrap), "r"(ow));
      }
      if (left < 4) at = vpselq_u32(at, vdupq_n_u32(0), vctp32q((uint32_t)left)); /* the rest reads what the first reads */
      ONNXC_ANY(ONNXC_AT, plane);
      v = onnxc_bytes4(v, m, offset);
      if (left < 4)
        vstrbq_scatter_offset_p_s32(y, apart, v, vctp32q((uint32_t)left));
      else
        vstrbq_scatter_offset_s32(y, apart, v);
      at = vaddq_n_u32(at, (uint32_t)step), column = vaddq_n_u32(column, 4);
    }
  }
}
#else
ONNXC_KERNEL void onnxc_channel(const onnxc_depthwise_layer *s, const int8_t *plane, const int8_t *w, const int32_t *ends,
                                const int32_t *scale, int8_t *y) {
  int row, column, i, j;
  for (row = 0; row < s->oh; row++)
    for (column = 0; column < s->ow; column++, y += s->c) {
      const int8_t *k = w, *x = plane + row * s->sh * s->line + column * s->sw;
      int32_t sum = scale[0];
      for (i = 0; i < s->kh; i++)
        for (j = 0; j < s->kw; j++) sum += x[i * s->dh * s->line + j * s->dw] * *k++;
      *y = (int8_t)onnxc_requantise(sum, scale[4], ends[0], 0);
    }
}
#endif

ONNXC_KERNEL void onnxc_depthwise(const onnxc_depthwise_layer *s, const void *x, const void *w, const void *scales, void *y,
                                  void *work) {
  onnxc_by_planes(s, x, w, scales, y, work, onnxc_channel);
}

#endif
