/* Symbols by adaptive binary arithmetic coding: every symbol is a path down a binary tree, every decision of it is predicted
 * from five contexts, and the predictions are mixed in the logistic domain (Mahoney 2005, "Adaptive weighing of context
 * models for lossless data compression"). Integers alone, so that every machine reads the same bytes.
 *
 * The contexts of a symbol are magnitudes, distances from `centre`, of symbols before it: trained weights are wide where
 * their neighbours are wide. Neighbours are the two symbols before, and the one `stride` symbols before: the same place of
 * the previous row or kernel.
 */
#ifndef ONNXC_ADAPTIVE_H
#define ONNXC_ADAPTIVE_H

#include <stdint.h>
#include <string.h>

#define CONTEXTS 5
#define ROWS (1 + 1 + 9 + 9 + 12) /* sets of a context each: none, none, symbol before, symbol above, magnitudes around */
#define HISTORY 2048u             /* symbols that are remembered: no stride is longer */
#define SLOW 126                  /* a counter whose steps have shrunk so far adapts no slower */
#define FAST 16
#define WEIGHT 14000              /* of 65,536: the share of a context before anything is learnt */
#define RATE 8
#define MOST_WEIGHT (1 << 19)

/* About 31 KiB. Chances are of a one, of 65,536. */
struct adaptive {
  uint16_t chance[ROWS][256];
  uint8_t seen[ROWS][256];
  int32_t weight[8][CONTEXTS];
  int16_t stretch[2048]; /* ln(p / (1 - p)) * 256 of p = (index + 1/2) / 2048 */
  uint16_t step[SLOW + 1];
  uint8_t history[HISTORY];
  uint32_t at, since, stride; /* symbols so far, since the segment began, and its stride */
  uint8_t bits, centre;
  /* of the symbol and of the decision that are being coded */
  uint8_t row[CONTEXTS];
  int stretched[CONTEXTS];
  unsigned node, level;
  int mixed;
};

/* 4096 / (1 + e^(-x / 256)), by lines between points 128 apart. */
static int squash(int x)
{
  static const uint16_t points[33] = {1, 2, 4, 6, 10, 17, 27, 45, 74, 120, 194, 311, 488, 747, 1102, 1546, 2048,
    2550, 2994, 3349, 3608, 3785, 3902, 3976, 4022, 4051, 4069, 4079, 4086, 4090, 4092, 4094, 4095};
  unsigned place, part;
  if (x >= 2047) return 4095;
  if (x <= -2047) return 1;
  place = (unsigned)(x + 2048) >> 7, part = (unsigned)(x + 2048) & 127;
  return (int)((points[place] * (128 - part) + points[place + 1] * part + 64) >> 7);
}

static void adaptive_start(struct adaptive *model, unsigned bits, unsigned centre)
{
  unsigned i, j;
  int x, next = 0;
  for (i = 0; i < ROWS; i++)
    for (j = 0; j < 256; j++) model->chance[i][j] = 32768;
  memset(model->seen, 0, sizeof model->seen);
  for (i = 0; i < 8; i++)
    for (j = 0; j < CONTEXTS; j++) model->weight[i][j] = WEIGHT;
  for (x = -2047; x <= 2047; x++)
    for (; next <= (squash(x) - 1) / 2; next++) model->stretch[next] = (int16_t)x;
  for (; next < 2048; next++) model->stretch[next] = 2047;
  for (i = 0; i <= SLOW; i++) model->step[i] = (uint16_t)(131072u / (2 * i + 3));
  memset(model->history, (int)centre, HISTORY);
  model->at = model->since = model->stride = 0;
  model->bits = (uint8_t)bits, model->centre = (uint8_t)centre;
}

static unsigned signed_level(int value)
{
  unsigned size = (unsigned)(value < 0 ? -value : value);
  unsigned level = size == 0 ? 0 : size < 2 ? 1 : size < 5 ? 2 : size < 14 ? 3 : 4;
  return value < 0 ? level + 4 : level;
}

static unsigned unsigned_level(unsigned size)
{
  static const uint8_t bounds[11] = {1, 2, 4, 7, 11, 17, 26, 40, 62, 96, 150};
  unsigned level = 0;
  while (level < 11 && size >= bounds[level]) level++;
  return level;
}

static unsigned away(int value) { return (unsigned)(value < 0 ? -value : value); }

/* Look up the contexts of the next symbol. */
static void adaptive_symbol(struct adaptive *model)
{
  uint32_t at = model->at, back = model->stride;
  int centre = model->centre;
  int before = model->since > 0 ? model->history[(at - 1) % HISTORY] - centre : 0;
  int earlier = model->since > 1 ? model->history[(at - 2) % HISTORY] - centre : 0;
  int above = back && model->since >= back ? model->history[(at - back) % HISTORY] - centre : 0;
  model->row[0] = 0;
  model->row[1] = 1;
  model->row[2] = (uint8_t)(2 + signed_level(before));
  model->row[3] = (uint8_t)(11 + signed_level(above));
  model->row[4] = (uint8_t)(20 + unsigned_level(away(before) + away(earlier) + away(above)));
  model->node = 1;
  model->level = 8u - model->bits;
}

/* The chance of a one, of 4096, at the next decision: 1 to 4095. */
static int adaptive_chance(struct adaptive *model)
{
  const int32_t *weight = model->weight[model->level];
  int64_t sum = 0;
  unsigned i;
  for (i = 0; i < CONTEXTS; i++) {
    model->stretched[i] = model->stretch[model->chance[model->row[i]][model->node] >> 5];
    sum += (int64_t)weight[i] * model->stretched[i];
  }
  sum >>= 16;
  model->mixed = squash(sum > 2047 ? 2047 : sum < -2047 ? -2047 : (int)sum);
  return model->mixed;
}

static void adaptive_learn(struct adaptive *model, unsigned bit)
{
  int32_t *weight = model->weight[model->level];
  int wrong = ((int)(bit << 12) - model->mixed) * RATE;
  unsigned i;
  for (i = 0; i < CONTEXTS; i++) {
    uint16_t *chance = &model->chance[model->row[i]][model->node];
    uint8_t *seen = &model->seen[model->row[i]][model->node];
    int32_t changed = weight[i] + ((model->stretched[i] * wrong + (1 << 13)) >> 14);
    uint32_t step = model->step[*seen];
    weight[i] = changed > MOST_WEIGHT ? MOST_WEIGHT : changed < -MOST_WEIGHT ? -MOST_WEIGHT : changed;
    if (bit) *chance = (uint16_t)(*chance + (((65535u - *chance) * step) >> 16));
    else *chance = (uint16_t)(*chance - ((*chance * step) >> 16));
    if (*seen < (model->row[i] == 1 ? FAST : SLOW)) ++*seen;
  }
  model->node = model->node * 2 + bit;
  model->level++;
}

static void adaptive_remember(struct adaptive *model, unsigned symbol)
{
  model->history[model->at++ % HISTORY] = (uint8_t)symbol;
  model->since++;
}

#endif
