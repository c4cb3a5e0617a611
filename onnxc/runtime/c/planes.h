/* One plane of a coded array, a byte of each element: canonical Huffman over phrases of one or two symbols, eight streams.
 *
 * Speed comes from three things. Eight streams run in step, so that the latency of one table look-up hides behind seven
 * others. The bits of a stream stand in one register above a marker bit: shifting consumes bits, and counting the
 * zeros below the marker tells how many, so that a refill is one load. And one look-up yields up to three symbols where
 * codes are short. Within `rounds` that are known to stay in bounds nothing is checked; the ends of the streams are
 * decoded with every access checked.
 */
#ifndef ONNXC_PLANES_H
#define ONNXC_PLANES_H

#include "adaptive.h"
#include "bytes.h"
#include "decode.h"

#include <string.h>

#define LONGEST 13 /* bits: no code is longer */
#define SHORTEST 11 /* bits of a look-up, at least */
#define STREAMS 8
#define BLOCK 66048u        /* symbols of a block: its streams start 129 cache lines apart, in different sets */
#define FEW 8192u           /* a block of fewer symbols is one stream */
#define MAX_PHRASES 4096u

enum { RAW = 0, FILL = 1, HUFFMAN = 2, ADAPTIVE = 3 };

/* An entry of `base` and `many`: bits 0-5 code bits, 6-29 the symbols, first one lowest, 30-31 their number. The first
 * 2^window entries are in use, the next `window` bits of a stream, first bit highest, being the index. */
struct table {
  uint32_t base[1u << LONGEST]; /* one phrase */
  union {
    uint32_t many[1u << LONGEST]; /* as many phrases as the window holds, at most three symbols */
    uint16_t one[1u << LONGEST];  /* one symbol: code bits in the low byte, the symbol in the high one */
  } fast;
};

/* What a plane is decoded with, by its mode. */
union tools {
  struct table table;
  struct adaptive model;
};

struct plane {
  struct reader in;
  struct table *table;
  struct adaptive *model;
  struct reader segments;     /* of an adaptive plane: those to come */
  uint32_t low, high, value;  /* of its arithmetic decoder */
  uint32_t segment;           /* symbols left of the segment */
  uint8_t flip, least;
  uint32_t left; /* symbols not yet decoded */
  uint8_t mode, fill, single; /* single: `one` is faster than `many` */
  unsigned window;            /* bits of a look-up */
};

struct stream {
  const uint8_t *at, *end;
  uint64_t used; /* bits of `at` consumed, below 8 between rounds */
  uint8_t *out, *out_end;
};

/* Tables */

/* The phrases of a code and their lengths, as they stand in the input. */
struct code {
  const uint8_t *lengths; /* nibbles, low one first */
  uint8_t symbols[256];
  uint8_t paired[256]; /* by symbol: begins phrases of two */
  uint32_t count, pairs, phrases;
};

static int read_code(struct reader *in, struct code *code)
{
  uint32_t i, bytes;
  if (left(in) < 33) return ONNXC_DECODE_TRUNCATED;
  code->count = 0;
  for (i = 0; i < 256; i++) {
    code->paired[i] = 0;
    if (in->at[i >> 3] >> (i & 7) & 1) code->symbols[code->count++] = (uint8_t)i;
  }
  code->pairs = in->at[32];
  in->at += 33;
  if (code->pairs > code->count) return ONNXC_DECODE_TABLE;
  if (left(in) < code->pairs) return ONNXC_DECODE_TRUNCATED;
  for (i = 0; i < code->pairs; i++) {
    if (code->paired[in->at[i]]) return ONNXC_DECODE_TABLE;
    code->paired[in->at[i]] = 1;
  }
  in->at += code->pairs;
  code->phrases = code->pairs * code->count + (code->count - code->pairs);
  if (code->phrases > MAX_PHRASES) return ONNXC_DECODE_TABLE;
  bytes = (code->phrases + 1) / 2;
  if (left(in) < bytes) return ONNXC_DECODE_TRUNCATED;
  code->lengths = in->at;
  in->at += bytes;
  return ONNXC_DECODE_OK;
}

static uint32_t code_length(const struct code *code, uint32_t phrase)
{
  return code->lengths[phrase >> 1] >> (4 * (phrase & 1)) & 15;
}

/* Fill `base` and choose the window. Canonical: by length, then in the order of the phrases. */
static int fill_base(const struct code *code, uint32_t *base, unsigned *window)
{
  uint32_t next[LONGEST + 1] = {0}, i, j, length, phrase = 0, at = 0;
  for (i = 0; i < code->phrases; i++) {
    length = code_length(code, i);
    if (length > LONGEST) return ONNXC_DECODE_TABLE;
    next[length]++;
  }
  for (*window = LONGEST; *window > SHORTEST && !next[*window];) --*window;
  for (length = 1; length <= *window; length++) {
    j = next[length] << (*window - length);
    next[length] = at;
    at += j;
  }
  if (at != 1u << *window) return ONNXC_DECODE_TABLE;
  for (i = 0; i < code->count; i++) {
    uint32_t first = code->symbols[i], others = code->paired[first] ? code->count : 1;
    for (j = 0; j < others; j++, phrase++) {
      uint32_t entry, k, span;
      length = code_length(code, phrase);
      if (!length) continue;
      entry = length | first << 6 | 1u << 30;
      if (code->paired[first]) entry = length | first << 6 | (uint32_t)code->symbols[j] << 14 | 2u << 30;
      span = 1u << (*window - length);
      for (k = 0; k < span; k++) base[next[length] + k] = entry;
      next[length] += span;
    }
  }
  /* a paired symbol outside the alphabet has phrases that no symbol begins */
  return phrase == code->phrases ? ONNXC_DECODE_OK : ONNXC_DECODE_TABLE;
}

static uint32_t joined(const uint32_t *base, uint32_t index, unsigned window)
{
  uint32_t entry = base[index], length = entry & 63, count = entry >> 30, text = entry << 2 >> 8;
  while (count < 3) {
    uint32_t more = base[index << length & ((1u << window) - 1)];
    if (length + (more & 63) > window || count + (more >> 30) > 3) break;
    text |= more << 2 >> 8 << (8 * count);
    length += more & 63;
    count += more >> 30;
  }
  return length | text << 6 | count << 30;
}

static int build(struct plane *plane)
{
  struct code code;
  struct table *table = plane->table;
  uint32_t i, entries, total = 0;
  int status = read_code(&plane->in, &code);
  if (!status) status = fill_base(&code, table->base, &plane->window);
  if (status) return status;
  entries = 1u << plane->window;
  for (i = 0; i < entries; i++) {
    table->fast.many[i] = joined(table->base, i, plane->window);
    total += table->fast.many[i] >> 30;
  }
  /* total / entries is the mean number of symbols of a look-up if the symbols come as the code expects them */
  plane->single = code.pairs == 0 && total < entries / 10 * 13;
  for (i = 0; plane->single && i < entries; i++)
    table->fast.one[i] = (uint16_t)((table->base[i] & 63) | (table->base[i] >> 6 & 255) << 8);
  return ONNXC_DECODE_OK;
}

/* Streams */

#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

/* Rounds that no stream can leave its input or its output in, if one reads at most 8 bytes and writes at most `written`. */
static size_t safe_rounds(const struct stream *s, int streams, size_t written)
{
  size_t rounds = (size_t)-1;
  int i;
  for (i = 0; i < streams; i++) {
    size_t in = (size_t)(s[i].end - s[i].at), out = (size_t)(s[i].out_end - s[i].out) / written;
    in = in < 16 ? 0 : (in - 8) / 8;
    if (in < rounds) rounds = in;
    if (out < rounds) rounds = out;
  }
  return rounds;
}

#define OPEN(i) const uint8_t *at##i = s[i].at; uint8_t *out##i = s[i].out; uint64_t bits##i = (big64(at##i) | 1) << s[i].used;
#define REFILL(i) { unsigned used = trailing_zeros(bits##i); at##i += used >> 3; bits##i = (big64(at##i) | 1) << (used & 7); }
#define CLOSE(i) { unsigned used = trailing_zeros(bits##i); s[i].at = at##i + (used >> 3); s[i].used = used & 7; s[i].out = out##i; }

/* Five look-ups of eleven bits, or four of up to thirteen, leave the marker where it can be found: 7 + 55 < 63. */
#define ONE(i, k) { uint32_t e = table[bits##i >> (64 - window)]; bits##i <<= e & 63; out##i[k] = (uint8_t)(e >> 8); }
#define ONE0(i) ONE(i, 0)
#define ONE1(i) ONE(i, 1)
#define ONE2(i) ONE(i, 2)
#define ONE3(i) ONE(i, 3)
#define ONE4(i) ONE(i, 4)
#define NEXT4(i) out##i += 4;
#define NEXT5(i) out##i += 5;
/* Each writes four bytes, of which up to three stay. */
#define MANY(i) { uint32_t e = table[bits##i >> (64 - window)]; bits##i <<= e & 63; put32(out##i, e >> 6); out##i += e >> 30; }

#define FIVE_ONES(E) E(ONE0) E(ONE1) E(ONE2) E(ONE3) E(ONE4) E(NEXT5)
#define FOUR_ONES(E) E(ONE0) E(ONE1) E(ONE2) E(ONE3) E(NEXT4)
#define FIVE_MANY(E) E(MANY) E(MANY) E(MANY) E(MANY) E(MANY)
#define FOUR_MANY(E) E(MANY) E(MANY) E(MANY) E(MANY)

#define RUN(name, entry, bits_of_window, streams, step) \
  static void name(const entry *table, struct stream *s, size_t rounds) \
  { \
    enum { window = bits_of_window }; \
    streams(OPEN) \
    for (; rounds; rounds--) { step(streams) streams(REFILL) } \
    streams(CLOSE) \
  }

RUN(one_11, uint16_t, 11, EIGHT, FIVE_ONES)
RUN(one_12, uint16_t, 12, EIGHT, FOUR_ONES)
RUN(one_13, uint16_t, 13, EIGHT, FOUR_ONES)
RUN(many_11, uint32_t, 11, EIGHT, FIVE_MANY)
RUN(many_12, uint32_t, 12, EIGHT, FOUR_MANY)
RUN(many_13, uint32_t, 13, EIGHT, FOUR_MANY)

#define ALONE(X) X(0)

/* One stream, while it is not near its end. */
static void run_alone(const uint32_t *table, unsigned window, struct stream *s)
{
  size_t rounds;
  while ((rounds = safe_rounds(s, 1, 16))) {
    ALONE(OPEN)
    for (; rounds; rounds--) { FOUR_MANY(ALONE) ALONE(REFILL) }
    ALONE(CLOSE)
  }
}

/* All streams in step until one of them comes near its end; where look-ups yield unequal numbers of symbols, some lag. */
static void run(const struct plane *plane, struct stream *s)
{
  static void (*const ones[])(const uint16_t *, struct stream *, size_t) = {one_11, one_12, one_13};
  static void (*const manys[])(const uint32_t *, struct stream *, size_t) = {many_11, many_12, many_13};
  size_t rounds;
  int i;
  while ((rounds = safe_rounds(s, STREAMS, plane->single ? 5 : 16))) {
    if (plane->single) ones[plane->window - SHORTEST](plane->table->fast.one, s, rounds);
    else manys[plane->window - SHORTEST](plane->table->fast.many, s, rounds);
  }
  for (i = 0; i < STREAMS && !plane->single; i++) run_alone(plane->table->fast.many, plane->window, &s[i]);
}

/* The rest of one stream, each access checked; bits beyond the end read as zeros and are an error afterwards. */
static int finish(const uint32_t *base, unsigned bits, struct stream *s)
{
  uint64_t at = s->used, limit = 8 * (uint64_t)(s->end - s->at);
  while (s->out < s->out_end) {
    uint64_t byte = at >> 3, size = limit >> 3;
    uint32_t window = 0, entry;
    if (byte < size) window = (uint32_t)s->at[byte] << 16;
    if (byte + 1 < size) window |= (uint32_t)s->at[byte + 1] << 8;
    if (byte + 2 < size) window |= s->at[byte + 2];
    entry = base[window >> (24 - bits - (at & 7)) & ((1u << bits) - 1)];
    at += entry & 63;
    *s->out++ = (uint8_t)(entry >> 6);
    if (entry >> 30 == 2 && s->out < s->out_end) *s->out++ = (uint8_t)(entry >> 14);
  }
  return at <= limit && limit - at < 8 ? ONNXC_DECODE_OK : ONNXC_DECODE_STREAM;
}

static int decode_block(struct plane *plane, uint8_t *out, uint32_t count)
{
  struct stream s[STREAMS];
  int streams = count < FEW ? 1 : STREAMS, i, status;
  uint32_t each = (count + (uint32_t)streams - 1) / (uint32_t)streams, done = 0;
  const uint8_t *at = plane->in.at + 2 * streams;
  if (left(&plane->in) < 2 * (size_t)streams) return ONNXC_DECODE_TRUNCATED;
  for (i = 0; i < streams; i++) {
    size_t size = get16(plane->in.at + 2 * i);
    uint32_t symbols = count - done < each ? count - done : each;
    if ((size_t)(plane->in.end - at) < size) return ONNXC_DECODE_TRUNCATED;
    s[i].at = at, s[i].end = at + size, s[i].used = 0;
    s[i].out = out + done, s[i].out_end = out + done + symbols;
    at += size;
    done += symbols;
  }
  plane->in.at = at;
  if (streams == STREAMS) run(plane, s);
  for (i = 0, status = ONNXC_DECODE_OK; i < streams && !status; i++) status = finish(plane->table->base, plane->window, &s[i]);
  return status;
}

/* Adaptive planes */

/* A number of at most 28 bits, seven a byte, lowest first; the highest bit of a byte says that another follows. */
static int read_varint(struct reader *in, uint32_t *value)
{
  unsigned shift;
  for (*value = 0, shift = 0; shift < 28; shift += 7) {
    if (!left(in)) return ONNXC_DECODE_TRUNCATED;
    *value |= (uint32_t)(*in->at & 127) << shift;
    if (*in->at++ < 128) return ONNXC_DECODE_OK;
  }
  return ONNXC_DECODE_FORMAT;
}

/* A byte of the arithmetic code; zeros follow its end. */
static void shift_in(struct plane *plane)
{
  plane->value = plane->value << 8 | (left(&plane->in) ? *plane->in.at : 0u);
  plane->in.at += left(&plane->in) > 0;
}

static int open_adaptive(struct plane *plane, uint32_t count)
{
  uint32_t length, stride, total = 0;
  unsigned bits, centre, i;
  int status;
  if (left(&plane->in) < 4) return ONNXC_DECODE_TRUNCATED;
  plane->flip = plane->in.at[0], plane->least = plane->in.at[1], bits = plane->in.at[2], centre = plane->in.at[3];
  plane->in.at += 4;
  if (bits < 1 || bits > 8 || centre >> bits) return ONNXC_DECODE_FORMAT;
  plane->segments = plane->in;
  while (total < count) {
    status = read_varint(&plane->in, &length);
    if (!status) status = read_varint(&plane->in, &stride);
    if (status) return status;
    if (!length || length > count - total || stride > HISTORY) return ONNXC_DECODE_SIZE;
    total += length;
  }
  adaptive_start(plane->model, bits, centre);
  plane->segments.end = plane->in.at;
  plane->segment = 0;
  plane->low = 0, plane->high = 0xffffffffu, plane->value = 0;
  if (!left(&plane->in)) return ONNXC_DECODE_TRUNCATED;
  for (i = 0; i < 4; i++) shift_in(plane);
  return ONNXC_DECODE_OK;
}

static int decode_adaptive(struct plane *plane, uint8_t *out, uint32_t count)
{
  struct adaptive *model = plane->model;
  uint32_t i, symbol;
  unsigned level;
  for (i = 0; i < count; i++) {
    if (!plane->segment) {
      if (read_varint(&plane->segments, &plane->segment) || read_varint(&plane->segments, &model->stride)) return ONNXC_DECODE_SIZE;
      model->since = 0;
    }
    plane->segment--;
    adaptive_symbol(model);
    for (level = model->bits; level; level--) {
      uint32_t middle = plane->low + ((plane->high - plane->low) >> 12) * (uint32_t)adaptive_chance(model);
      unsigned bit = plane->value <= middle;
      if (bit) plane->high = middle;
      else plane->low = middle + 1;
      adaptive_learn(model, bit);
      while ((plane->low ^ plane->high) >> 24 == 0) {
        plane->low <<= 8, plane->high = plane->high << 8 | 255;
        shift_in(plane);
      }
    }
    symbol = model->node & ((1u << model->bits) - 1);
    adaptive_remember(model, symbol);
    out[i] = (uint8_t)((symbol + plane->least) ^ plane->flip);
  }
  return ONNXC_DECODE_OK;
}

/* Planes */

static int open_plane(struct reader *in, struct plane *plane, uint32_t count, union tools *tools)
{
  size_t size;
  if (left(in) < 5) return ONNXC_DECODE_TRUNCATED;
  plane->mode = in->at[0];
  size = get32(in->at + 1);
  in->at += 5;
  if (left(in) < size) return ONNXC_DECODE_TRUNCATED;
  plane->in.at = in->at, plane->in.end = in->at + size;
  in->at += size;
  plane->left = count, plane->table = &tools->table, plane->model = &tools->model;
  if (plane->mode == RAW) return size == count ? ONNXC_DECODE_OK : ONNXC_DECODE_SIZE;
  if (plane->mode == HUFFMAN) return build(plane);
  if (plane->mode == ADAPTIVE) return open_adaptive(plane, count);
  if (plane->mode != FILL) return ONNXC_DECODE_FORMAT;
  if (size != 1) return ONNXC_DECODE_SIZE;
  plane->fill = *plane->in.at;
  return ONNXC_DECODE_OK;
}

/* The next `count` symbols, a whole block or the rest. */
static int next_symbols(struct plane *plane, uint8_t *out, uint32_t count)
{
  plane->left -= count;
  if (plane->mode == FILL) {
    memset(out, plane->fill, count);
    return ONNXC_DECODE_OK;
  }
  if (plane->mode == RAW) {
    memcpy(out, plane->in.at, count);
    plane->in.at += count;
    return ONNXC_DECODE_OK;
  }
  return plane->mode == ADAPTIVE ? decode_adaptive(plane, out, count) : decode_block(plane, out, count);
}

static int closed(const struct plane *plane)
{
  return plane->mode < HUFFMAN || left(&plane->in) == 0 ? ONNXC_DECODE_OK : ONNXC_DECODE_SIZE;
}

#endif
