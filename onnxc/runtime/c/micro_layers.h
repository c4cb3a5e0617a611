/* micro_layers.h: what a convolution, a matrix product and a depthwise layer are. */
#ifndef ONNXC_MICRO_LAYERS_H
#define ONNXC_MICRO_LAYERS_H

#include "micro.h"

typedef struct {
  int16_t h, w, c, oh, ow, oc, kh, kw, sh, sw, top, left, dh, dw;
  uint32_t flip; /* 0x80808080 where x is uint8 */
  int32_t pad;   /* what stands outside of x, four times, after the flip */
  int32_t steps; /* quarters of a column: ceil(kh kw c / 4); of windows that vectors hold bytes of their lines, or 0 */
  const onnxc_ends *end; /* or NULL */
} onnxc_conv_layer;

/* Depthwise layers, a channel at a time: its plane with padding, or the planes of four, stands in `work` (lines of a multiple of 4 bytes, 8
 * more at the end), so that y may lie over x where it has the same extents. w: kh kw bytes a channel. */
typedef struct {
  int16_t h, w, c, oh, ow, kh, kw, sh, sw, top, left, dh, dw, line; /* line: bytes of a line of the plane; columns of words */
  int16_t lines, planes; /* planes at once: 4 or 1 */
  uint32_t flip;
  int32_t pad;
  const onnxc_ends *end; /* or NULL */
} onnxc_depthwise_layer;

#endif
