/* micro_between.h: what stands between products of 8-bit networks. */
#ifndef ONNXC_MICRO_BETWEEN_H
#define ONNXC_MICRO_BETWEEN_H

#ifdef ONNXC_HELIUM
#include "micro_helium.h"
#else
#include "micro.h"
#endif

/* x[i sh + j sw + k sc] becomes y[i][j][k]: a change of layout, and a quantiser where x is float32. */
typedef struct {
  int32_t h, w, c, sh, sw, sc;
  float scale, low, high; /* the least and the greatest integer less the zero point */
  int32_t zero;
} onnxc_move_layer;

ONNXC_KERNEL void onnxc_permute(const onnxc_move_layer *s, const void *x, void *y) {
  const int8_t *from = (const int8_t *)x;
  int8_t *to = (int8_t *)y;
  int i, j, k;
#ifdef ONNXC_MVE
  if (s->sw == 1 && s->c <= 16) { /* planes that become pixels: 16 of a plane's row are as many bytes apart as there are planes */
    const uint8x16_t apart = vmulq_n_u8(vidupq_n_u8(0, 1), (uint8_t)s->c);
    for (i = 0; i < s->h; i++, to += s->w * s->c)
      for (k = 0; k < s->c; k++) {
        const int8_t *at = from + i * s->sh + k * s->sc;
        int8_t *put = to + k;
        __asm__ volatile("wlstp.8 lr, %[count], 2f\n1:\n\tvldrb.8 q0, [%[at]], #16\n\tvstrb.8 q0, [%[put], %q[apart]]\n\t"
                         "add %[put], %[put], %[step]\n\tletp lr, 1b\n2:"
                         : [at] "+r"(at), [put] "+r"(put)
                         : [count] "r"(s->w), [apart] "w"(apart), [step] "r"(16 * s->c)
                         : "q0", "lr", "memory");
      }
    return;
  }
#endif
  for (i = 0; i < s->h; i++)
    for (j = 0; j < s->w; j++) {
      const int8_t *at = from + i * s->sh + j * s->sw;
      for (k = 0; k < s->c; k++, at += s->sc) *to++ = *at;
    }
}

ONNXC_KERNEL void onnxc_quantise(const onnxc_move_layer *s, const void *x, void *y) {
  const float *from = (const float *)x;
  int8_t *to = (int8_t *)y;
  int i, j, k;
  for (i = 0; i < s->h; i++)
    for (j = 0; j < s->w; j++) {
      const float *at = from + i * s->sh + j * s->sw;
      for (k = 0; k < s->c; k++, at += s->sc) {
        float v = *at / s->scale;
        *to++ = (int8_t)(onnxc_round(v < s->low ? s->low : v > s->high ? s->high : v) + s->zero);
      }
    }
}

/* The sum of two tensors of one shape, as the residual of a convolution. */
typedef struct {
  int32_t count;
  onnxc_ends end;
} onnxc_sum_layer;

ONNXC_KERNEL void onnxc_sum(const onnxc_sum_layer *s, const void *a, const void *b, void *y) {
  onnxc_more(&s->end, (const int8_t *)a, (const int8_t *)b, (int8_t *)y, s->count);
}

typedef struct {
  int32_t count;
  float scale;
  int32_t zero;
  uint32_t flip;
} onnxc_dequantise_layer;

ONNXC_KERNEL void onnxc_dequantise(const onnxc_dequantise_layer *s, const void *x, void *y) {
  const int8_t *from = (const int8_t *)x;
  float *to = (float *)y;
  int i;
  for (i = 0; i < s->count; i++) to[i] = s->scale * (float)((int8_t)((uint8_t)from[i] ^ s->flip) - s->zero);
}

/* Softmax of rows of 8-bit integers: exp(-i scale) stands in a table of 256. */
typedef struct {
  int32_t rows, count;
  uint32_t flip;
} onnxc_softmax_layer;

ONNXC_KERNEL void onnxc_softmax(const onnxc_softmax_layer *s, const void *x, const void *table, void *y) {
  const int8_t *from = (const int8_t *)x;
  const float *powers = (const float *)table;
  float *to = (float *)y;
  int row, i;
  for (row = 0; row < s->rows; row++, from += s->count, to += s->count) {
    int32_t most = -128;
    float sum = 0;
    for (i = 0; i < s->count; i++) {
      int32_t v = (int8_t)((uint8_t)from[i] ^ s->flip);
      most = v > most ? v : most;
    }
    for (i = 0; i < s->count; i++) sum += to[i] = powers[most - (int8_t)((uint8_t)from[i] ^ s->flip)];
    for (i = 0; i < s->count; i++) to[i] /= sum;
  }
}

/* Means of windows that lie inside of x. scales: a table of one channel, whose M has 1 / (16 kh kw) in it. */
#define ONNXC_UP 16
typedef struct {
  int16_t w, c, oh, ow, kh, kw, sh, sw;
  uint32_t flip, out;
} onnxc_mean_layer;

ONNXC_KERNEL void onnxc_mean(const onnxc_mean_layer *s, const void *x, const void *scales, void *y) {
  const int32_t *e = (const int32_t *)scales;
  int8_t *to = (int8_t *)y;
  int row, column, k, i, j, c = s->c;
  for (row = 0; row < s->oh; row++)
    for (column = 0; column < s->ow; column++) {
      const int8_t *window = (const int8_t *)x + (row * s->sh * s->w + column * s->sw) * c;
#ifdef ONNXC_MVE
      for (k = c; k > 0; k -= 4, window += 4, to += 4) {
        const mve_pred16_t p = vctp32q((uint32_t)k);
        const int32x4_t flip = vdupq_n_s32(s->flip ? -128 : 0);
        int32x4_t v = vdupq_n_s32(0);
        for (i = 0; i < s->kh; i++) {
          const int8_t *at = window + i * s->w * c;
          for (j = s->kw; j > 0; j--, at += c) v = vaddq_s32(v, veorq_s32(vldrbq_z_s32(at, p), flip));
        }
        v = onnxc_bytes4(vaddq_n_s32(vmulq_n_s32(v, ONNXC_UP), e[2]), vreinterpretq_f32_s32(vdupq_n_s32(e[3])), e[0]);
        vstrbq_p_s32(to, veorq_s32(v, vdupq_n_s32((int32_t)s->out)), p);
      }
      to += k; /* no more than there are channels */
#else
      for (k = 0; k < c; k++, window++) {
        int32_t sum = e[2];
        for (i = 0; i < s->kh; i++) {
          const int8_t *at = window + i * s->w * c;
          for (j = 0; j < s->kw; j++, at += c) sum += ONNXC_UP * (int8_t)((uint8_t)*at ^ s->flip);
        }
        *to++ = (int8_t)((uint32_t)onnxc_requantise(sum, e[3], e[0], e[1]) ^ s->out);
      }
#endif
    }
}

#endif
