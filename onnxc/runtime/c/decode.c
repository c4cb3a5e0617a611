/* Decoder of entropy-coded weights: canonical Huffman over phrases of one or two symbols, eight interleaved streams.
 *
 * Speed comes from three things. Eight streams run in step, so that the latency of one table look-up hides behind seven
 * others. The bits of a stream stand in one register above a marker bit: shifting consumes bits, and counting the
 * zeros below the marker tells how many, so that a refill is one load. And one look-up yields up to three symbols where
 * codes are short. Within `rounds` that are known to stay in bounds nothing is checked; the ends of the streams are
 * decoded with every access checked.
 */
#include "decode.h"

#include <string.h>

#define WINDOW 12 /* bits of a look-up: no code is longer */
#define ENTRIES (1u << WINDOW)
#define SHORT_WINDOW 11 /* bits of a look-up where each yields one symbol and no code is longer */
#define STREAMS 8
#define BLOCK 66048u        /* symbols of a block: its streams start 129 cache lines apart, in different sets */
#define SLAB (1u << 20)     /* elements of a slab */
#define FEW 8192u           /* a block of fewer symbols is one stream */
#define MAX_PHRASES 4096u

enum { RAW = 0, FILL = 1, HUFFMAN = 2 };
enum { SPARSE = 1, ROTATED = 2, PALETTE = 4 };

/* An entry of `base` and `many`: bits 0-5 code bits, 6-29 the symbols, first one lowest, 30-31 their number. */
struct table {
  uint32_t base[ENTRIES]; /* one phrase */
  union {
    uint32_t many[ENTRIES];           /* as many phrases as the window holds, at most three symbols */
    uint16_t one[ENTRIES];  /* one symbol: code bits in the low byte, the symbol in the high one */
  } fast;
};

struct scratch {
  struct table tables[2];
  uint8_t symbols[2][BLOCK];
};

typedef char scratch_is_as_announced[sizeof(struct scratch) == ONNXC_DECODE_SCRATCH ? 1 : -1];

struct reader {
  const uint8_t *at, *end;
};

struct plane {
  struct reader in;
  struct table *table;
  uint32_t left; /* symbols not yet decoded */
  uint8_t mode, fill, window; /* window: of `one`, or 0 where `many` is faster */
};

struct stream {
  const uint8_t *at, *end;
  uint64_t used; /* bits of `at` consumed, below 8 between rounds */
  uint8_t *out, *out_end;
};

static size_t left(const struct reader *r) { return (size_t)(r->end - r->at); }

static uint32_t get16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }

static uint32_t get32(const uint8_t *p) { return get16(p) | get16(p + 2) << 16; }

static uint64_t get64(const uint8_t *p)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  uint64_t v;
  memcpy(&v, p, 8);
  return v;
#else
  return get32(p) | (uint64_t)get32(p + 4) << 32;
#endif
}

static void put32(uint8_t *p, uint32_t v)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  memcpy(p, &v, 4);
#else
  p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8), p[2] = (uint8_t)(v >> 16), p[3] = (uint8_t)(v >> 24);
#endif
}

/* The bits of a stream come highest first. */
static uint64_t big64(const uint8_t *p)
{
#if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  return __builtin_bswap64(get64(p));
#else
  uint64_t v = 0;
  int i;
  for (i = 0; i < 8; i++) v = v << 8 | p[i];
  return v;
#endif
}

static unsigned trailing_zeros(uint64_t v)
{
#if defined(__GNUC__)
  return (unsigned)__builtin_ctzll(v);
#else
  unsigned n = 0;
  while (!(v & 1)) v >>= 1, n++;
  return n;
#endif
}

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

/* Fill `base`. Canonical: by length, then in the order of the phrases. */
static int fill_base(const struct code *code, uint32_t *base, uint32_t *longest)
{
  uint32_t next[WINDOW + 1] = {0}, i, j, length, phrase = 0, at = 0;
  for (i = 0; i < code->phrases; i++) {
    length = code_length(code, i);
    if (length > WINDOW) return ONNXC_DECODE_TABLE;
    next[length] += ENTRIES >> length;
  }
  for (length = 1, *longest = 0; length <= WINDOW; length++) {
    j = next[length];
    if (j) *longest = length;
    next[length] = at;
    at += j;
  }
  if (at != ENTRIES) return ONNXC_DECODE_TABLE;
  for (i = 0; i < code->count; i++) {
    uint32_t first = code->symbols[i], others = code->paired[first] ? code->count : 1;
    for (j = 0; j < others; j++, phrase++) {
      uint32_t entry, k;
      length = code_length(code, phrase);
      if (!length) continue;
      entry = length | first << 6 | 1u << 30;
      if (code->paired[first]) entry = length | first << 6 | (uint32_t)code->symbols[j] << 14 | 2u << 30;
      for (k = 0; k < ENTRIES >> length; k++) base[next[length] + k] = entry;
      next[length] += ENTRIES >> length;
    }
  }
  /* a phrase that begins with a paired symbol outside the alphabet was never counted */
  return phrase == code->phrases ? ONNXC_DECODE_OK : ONNXC_DECODE_TABLE;
}

static uint32_t joined(const uint32_t *base, uint32_t window)
{
  uint32_t entry = base[window], length = entry & 63, count = entry >> 30, text = entry << 2 >> 8;
  while (count < 3) {
    uint32_t more = base[window << length & (ENTRIES - 1)];
    if (length + (more & 63) > WINDOW || count + (more >> 30) > 3) break;
    text |= more << 2 >> 8 << (8 * count);
    length += more & 63;
    count += more >> 30;
  }
  return length | text << 6 | count << 30;
}

static int build(struct plane *plane)
{
  struct code code;
  uint32_t longest, i, total = 0;
  struct table *table = plane->table;
  int status = read_code(&plane->in, &code);
  if (!status) status = fill_base(&code, table->base, &longest);
  if (status) return status;
  for (i = 0; i < ENTRIES; i++) {
    table->fast.many[i] = joined(table->base, i);
    total += table->fast.many[i] >> 30;
  }
  /* total / ENTRIES is the mean number of symbols of a look-up if the symbols come as the code expects them */
  plane->window = 0;
  if (code.pairs || total >= ENTRIES / 10 * 13) return ONNXC_DECODE_OK;
  plane->window = longest <= SHORT_WINDOW ? SHORT_WINDOW : WINDOW;
  for (i = 0; i < 1u << plane->window; i++) {
    uint32_t entry = table->base[i << (WINDOW - plane->window)];
    table->fast.one[i] = (uint16_t)((entry & 63) | (entry >> 6 & 255) << 8);
  }
  return ONNXC_DECODE_OK;
}

/* Streams */

#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define ALONE(X) X(0)

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

/* Five symbols of eleven bits, or four of twelve, leave the marker where it can be found: 7 + 55 < 63. */
#define ONE(i, k) { uint32_t e = table[bits##i >> (64 - window)]; bits##i <<= e & 63; out##i[k] = (uint8_t)(e >> 8); }
#define ONE0(i) ONE(i, 0)
#define ONE1(i) ONE(i, 1)
#define ONE2(i) ONE(i, 2)
#define ONE3(i) ONE(i, 3)
#define ONE4(i) ONE(i, 4)
#define NEXT4(i) out##i += 4;
#define NEXT5(i) out##i += 5;

static void run_short(const uint16_t *table, struct stream *s, size_t rounds)
{
  enum { window = SHORT_WINDOW };
  EIGHT(OPEN)
  for (; rounds; rounds--) {
    EIGHT(ONE0) EIGHT(ONE1) EIGHT(ONE2) EIGHT(ONE3) EIGHT(ONE4)
    EIGHT(REFILL) EIGHT(NEXT5)
  }
  EIGHT(CLOSE)
}

static void run_one(const uint16_t *table, struct stream *s, size_t rounds)
{
  enum { window = WINDOW };
  EIGHT(OPEN)
  for (; rounds; rounds--) {
    EIGHT(ONE0) EIGHT(ONE1) EIGHT(ONE2) EIGHT(ONE3)
    EIGHT(REFILL) EIGHT(NEXT4)
  }
  EIGHT(CLOSE)
}

/* Four look-ups of twelve bits: 7 + 48 < 63. Each writes four bytes, of which up to three stay. */
#define MANY(i) { uint32_t e = table[bits##i >> (64 - WINDOW)]; bits##i <<= e & 63; put32(out##i, e >> 6); out##i += e >> 30; }

static void run_many(const uint32_t *table, struct stream *s, size_t rounds)
{
  EIGHT(OPEN)
  for (; rounds; rounds--) {
    EIGHT(MANY) EIGHT(MANY) EIGHT(MANY) EIGHT(MANY)
    EIGHT(REFILL)
  }
  EIGHT(CLOSE)
}

static void run_alone(const uint32_t *table, struct stream *s, size_t rounds)
{
  ALONE(OPEN)
  for (; rounds; rounds--) {
    ALONE(MANY) ALONE(MANY) ALONE(MANY) ALONE(MANY)
    ALONE(REFILL)
  }
  ALONE(CLOSE)
}

/* The rest of one stream, each access checked; bits beyond the end read as zeros and are an error afterwards. */
static int finish(const uint32_t *base, struct stream *s)
{
  uint64_t at = s->used, limit = 8 * (uint64_t)(s->end - s->at);
  while (s->out < s->out_end) {
    uint64_t byte = at >> 3, size = limit >> 3;
    uint32_t window = 0, entry;
    if (byte < size) window = (uint32_t)s->at[byte] << 16;
    if (byte + 1 < size) window |= (uint32_t)s->at[byte + 1] << 8;
    if (byte + 2 < size) window |= s->at[byte + 2];
    entry = base[window >> (24 - WINDOW - (at & 7)) & (ENTRIES - 1)];
    at += entry & 63;
    *s->out++ = (uint8_t)(entry >> 6);
    if (entry >> 30 == 2 && s->out < s->out_end) *s->out++ = (uint8_t)(entry >> 14);
  }
  return at <= limit && limit - at < 8 ? ONNXC_DECODE_OK : ONNXC_DECODE_STREAM;
}

static int decode_block(struct plane *plane, uint8_t *out, uint32_t count)
{
  struct stream s[STREAMS];
  const struct table *table = plane->table;
  int streams = count < FEW ? 1 : STREAMS, i, status;
  uint32_t each = (count + (uint32_t)streams - 1) / (uint32_t)streams, done = 0;
  const uint8_t *at = plane->in.at + 2 * streams;
  size_t rounds;
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
  while (streams == STREAMS && (rounds = safe_rounds(s, STREAMS, plane->window ? 5 : 16))) {
    if (!plane->window) run_many(table->fast.many, s, rounds);
    else if (plane->window == WINDOW) run_one(table->fast.one, s, rounds);
    else run_short(table->fast.one, s, rounds);
  }
  for (i = 0; i < streams && !plane->window; i++)
    while ((rounds = safe_rounds(&s[i], 1, 16))) run_alone(table->fast.many, &s[i], rounds);
  for (i = 0, status = ONNXC_DECODE_OK; i < streams && !status; i++) status = finish(table->base, &s[i]);
  return status;
}

/* Planes */

static int open_plane(struct reader *in, struct plane *plane, uint32_t count, struct table *table)
{
  size_t size;
  if (left(in) < 5) return ONNXC_DECODE_TRUNCATED;
  plane->mode = in->at[0];
  size = get32(in->at + 1);
  in->at += 5;
  if (left(in) < size) return ONNXC_DECODE_TRUNCATED;
  plane->in.at = in->at, plane->in.end = in->at + size;
  in->at += size;
  plane->left = count, plane->table = table;
  if (plane->mode == RAW) return size == count ? ONNXC_DECODE_OK : ONNXC_DECODE_SIZE;
  if (plane->mode == HUFFMAN) return build(plane);
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
  return decode_block(plane, out, count);
}

static int closed(const struct plane *plane)
{
  return plane->mode != HUFFMAN || left(&plane->in) == 0 ? ONNXC_DECODE_OK : ONNXC_DECODE_SIZE;
}

/* Slabs */

struct slab {
  struct reader gaps;         /* at a plane, if the slab is sparse */
  const uint8_t *palette;
  uint32_t count, stored;     /* elements, and those that are coded */
  unsigned width, flags, colours;
};

/* Byte `byte` of every coded element, or, with a palette, its index: decoded, and written where it belongs. */
static int scatter(struct reader *in, const struct slab *slab, unsigned byte, uint8_t *out, struct scratch *scratch)
{
  struct plane values, gaps;
  struct reader gap_reader = slab->gaps;
  unsigned width = slab->width, b;
  uint64_t position = 0;
  uint32_t i, n;
  int sparse = slab->flags & SPARSE, status = open_plane(in, &values, slab->stored, &scratch->tables[0]);
  if (!status && sparse) status = open_plane(&gap_reader, &gaps, slab->stored, &scratch->tables[1]);
  while (!status && values.left) {
    const uint8_t *symbol = scratch->symbols[0], *gap = scratch->symbols[1];
    n = values.left < BLOCK ? values.left : BLOCK;
    if (!sparse && width == 1 && !slab->palette) {
      status = next_symbols(&values, out + position, n);
      position += n;
      continue;
    }
    status = next_symbols(&values, scratch->symbols[0], n);
    if (!status && sparse) status = next_symbols(&gaps, scratch->symbols[1], n);
    for (i = 0; !status && i < n; i++, position++) {
      if (sparse) position += gap[i];
      if (position >= slab->count) return ONNXC_DECODE_STREAM;
      if (!slab->palette) {
        out[position * width + byte] = symbol[i];
        continue;
      }
      if (symbol[i] >= slab->colours) return ONNXC_DECODE_STREAM;
      for (b = 0; b < width; b++) out[position * width + b] = slab->palette[symbol[i] * width + b];
    }
  }
  if (!status) status = closed(&values);
  return status || !sparse ? status : closed(&gaps);
}

/* Floats are coded with the sign below the mantissa, so that the exponent has bytes of its own. */
static void rotate_back(uint8_t *out, uint32_t count, unsigned width)
{
  uint32_t i;
  unsigned b;
  for (i = 0; i < count; i++, out += width) {
    uint8_t sign = out[0] & 1;
    for (b = 0; b + 1 < width; b++) out[b] = (uint8_t)(out[b] >> 1 | out[b + 1] << 7);
    out[b] = (uint8_t)(out[b] >> 1 | sign << 7);
  }
}

int onnxc_decode_slab(const uint8_t *data, size_t size, unsigned width, uint32_t count, uint8_t *out, void *memory)
{
  struct reader in = {data, data + size};
  struct slab slab = {{0, 0}, 0, count, count, width, 0, 0};
  struct scratch *scratch = memory;
  unsigned byte, planes = width;
  int status = ONNXC_DECODE_OK;
  if ((width != 1 && width != 2 && width != 4 && width != 8) || !count || count > SLAB) return ONNXC_DECODE_SIZE;
  if (size < 1) return ONNXC_DECODE_TRUNCATED;
  slab.flags = *in.at++;
  if (slab.flags > 7 || ((slab.flags & PALETTE) && (slab.flags & ROTATED))) return ONNXC_DECODE_FORMAT;
  if (slab.flags & SPARSE) {
    if (left(&in) < 4 + 5) return ONNXC_DECODE_TRUNCATED;
    slab.stored = get32(in.at);
    in.at += 4;
    slab.gaps = in;
    if (slab.stored > count) return ONNXC_DECODE_SIZE;
    if (left(&in) - 5 < get32(in.at + 1)) return ONNXC_DECODE_TRUNCATED;
    in.at += 5 + get32(in.at + 1);
    memset(out, 0, (size_t)count * width);
  }
  if (slab.flags & PALETTE) {
    if (left(&in) < 1) return ONNXC_DECODE_TRUNCATED;
    slab.colours = *in.at++ + 1u;
    if (left(&in) < (size_t)slab.colours * width) return ONNXC_DECODE_TRUNCATED;
    slab.palette = in.at;
    in.at += slab.colours * width;
    planes = 1;
  }
  for (byte = 0; byte < planes && !status; byte++) status = scatter(&in, &slab, byte, out, scratch);
  if (!status && left(&in)) status = ONNXC_DECODE_SIZE;
  if (!status && (slab.flags & ROTATED)) rotate_back(out, count, width);
  return status;
}

int onnxc_decode(const uint8_t *data, size_t size, uint8_t *out, size_t out_size, void *scratch)
{
  struct reader in = {data, data + size};
  unsigned width;
  uint64_t count;
  if (size < 12) return ONNXC_DECODE_TRUNCATED;
  width = data[1];
  count = get64(data + 4);
  if (data[0] != 1 || get16(data + 2) || (width != 1 && width != 2 && width != 4 && width != 8)) return ONNXC_DECODE_FORMAT;
  if (out_size % width || count != out_size / width) return ONNXC_DECODE_SIZE;
  for (in.at += 12; count;) {
    uint32_t n = count < SLAB ? (uint32_t)count : SLAB;
    size_t bytes;
    int status;
    if (left(&in) < 4) return ONNXC_DECODE_TRUNCATED;
    bytes = get32(in.at);
    in.at += 4;
    if (left(&in) < bytes) return ONNXC_DECODE_TRUNCATED;
    status = onnxc_decode_slab(in.at, bytes, width, n, out, scratch);
    if (status) return status;
    in.at += bytes;
    out += (size_t)n * width;
    count -= n;
  }
  return left(&in) ? ONNXC_DECODE_SIZE : ONNXC_DECODE_OK;
}
