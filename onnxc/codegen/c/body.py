"""The C of a library that does not depend on its model. `@...@` are filled by `csource`, net_ and NET_ become the name."""

BODY = """#include "@header@"

#include <string.h>
@includes@
#if NET_THREADS > 1
#include "parts/pool.h"
#endif

#define MAGIC @magic@
#define SHAPES @shapes@

typedef struct head {
  uint32_t magic, threads, busy, shape, machine;
#if NET_THREADS > 1
  const void *const *inputs;
  void *const *outputs;
  onnxc_pool pool;
#endif
} head;
typedef char head_fits[sizeof(head) <= @head@ ? 1 : -1];

extern const char @weights@[];
@kernels@

@tensors@
size_t net_arena_bytes(void) { return NET_ARENA_BYTES; }
const char *net_digest(void) { return "@digest@"; }

@decode@
@programs@

@pick@
int net_init(void *arena, int threads) {
  head *h = (head *)arena;
  int machine;
  if (!arena) return NET_NULL_POINTER;
  if ((uintptr_t)arena % NET_ARENA_ALIGN) return NET_MISALIGNED;
  if (threads < 1 || threads > NET_THREADS) return NET_BAD_THREADS;
#if NET_THREADS > 1
  if (h->magic == MAGIC && h->threads > 1 && h->threads <= NET_THREADS && h->pool.context == h) return NET_IN_USE;
#endif
  h->magic = 0;
  machine = chosen();
  if (machine < 0) return NET_WRONG_CPU;
  if (!decode((char *)arena)) return NET_BAD_WEIGHTS;
  h->threads = (uint32_t)threads;
  h->busy = h->shape = 0;
  h->machine = (uint32_t)machine;
#if NET_THREADS > 1
  if (threads > 1 && onnxc_pool_start(&h->pool, threads, @shares@, h)) return NET_NO_THREADS;
#endif
  h->magic = MAGIC;
  return NET_OK;
}

int net_init_checked(void *arena, size_t arena_bytes, int threads) {
  if (arena && arena_bytes < NET_ARENA_BYTES) return NET_ARENA_TOO_SMALL;
  return net_init(arena, threads);
}

/* OK for a handle that init has made. */
static int check_handle(const void *handle) {
  if (!handle) return NET_NULL_POINTER;
  if ((uintptr_t)handle % NET_ARENA_ALIGN) return NET_MISALIGNED;
  return ((const head *)handle)->magic == MAGIC ? NET_OK : NET_NOT_INITIALISED;
}

/* Processors that cannot exchange a word at once (Cortex-M0, RV32IMC) have one thread: there interrupts must not run a handle. */
#if defined(__GCC_ATOMIC_INT_LOCK_FREE) && __GCC_ATOMIC_INT_LOCK_FREE == 2
static uint32_t exchange(uint32_t *word) { return __atomic_exchange_n(word, 1u, __ATOMIC_ACQUIRE); }
static void clear(uint32_t *word) { __atomic_store_n(word, 0u, __ATOMIC_RELEASE); }
#else
static uint32_t exchange(volatile uint32_t *word) {
  uint32_t old = *word;
  *word = 1;
  return old;
}
static void clear(volatile uint32_t *word) { *word = 0; }
#endif

/* OK for a handle that is now this caller's alone, until `leave`. */
static int enter(void *handle) {
  int status = check_handle(handle);
  if (status != NET_OK) return status;
  return exchange(&((head *)handle)->busy) ? NET_BUSY : NET_OK;
}

static void leave(void *handle) { clear(&((head *)handle)->busy); }

int net_free(void *handle) {
  int status = enter(handle);
  if (status != NET_OK) return status;
#if NET_THREADS > 1
  if (((head *)handle)->threads > 1) onnxc_pool_stop(&((head *)handle)->pool);
#endif
  ((head *)handle)->magic = 0;
  return NET_OK;
}

const char *net_status_text(int status) {
  switch (status) {
    case NET_OK: return "ok";
    case NET_NULL_POINTER: return "a pointer is NULL";
    case NET_MISALIGNED: return "a pointer is not aligned";
    case NET_BAD_THREADS: return "the library does not run on so many threads";
    case NET_NOT_INITIALISED: return "the handle is not initialised";
    case NET_ARENA_TOO_SMALL: return "the arena is too small";
    case NET_WRONG_SIZE: return "a tensor has the wrong size";
    case NET_OVERLAP: return "an output overlaps another tensor or the arena";
    case NET_BUSY: return "the handle is running in another thread";
    case NET_BAD_WEIGHTS: return "the coded weights are damaged";
    case NET_NO_THREADS: return "the system gives no more threads";
    case NET_NO_SHAPE: return "there is no such shape";
    case NET_WRONG_CPU: return "the library has no kernels for this processor";
    case NET_INDEX: return "an index is out of range";
    case NET_IN_USE: return "the arena holds a handle whose threads have not been ended";
  }
  return "unknown status";
}

static int overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
  return (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

@own@static int check_tensors(const head *h, const void *const *inputs, void *const *outputs) {
  const net_tensor *in = input_table[h->shape], *out = output_table[h->shape];
  int i, j;
  for (i = 0; i < NET_INPUTS; i++) {
    if (!inputs[i]) return NET_NULL_POINTER;
    if ((uintptr_t)inputs[i] % input_align[i]) return NET_MISALIGNED;
@own_inputs@  }
  for (i = 0; i < NET_OUTPUTS; i++) {
    size_t bytes = out[i].bytes;
    if (!outputs[i]) return NET_NULL_POINTER;
    if ((uintptr_t)outputs[i] % output_align[i]) return NET_MISALIGNED;
    if (overlap(outputs[i], bytes, h, NET_ARENA_BYTES)@unless_own@) return NET_OVERLAP;
    for (j = 0; j < NET_INPUTS; j++)
      if (overlap(outputs[i], bytes, inputs[j], in[j].bytes)@unless_own@) return NET_OVERLAP;
    for (j = 0; j < i; j++)
      if (overlap(outputs[i], bytes, outputs[j], out[j].bytes)) return NET_OVERLAP;
  }
  return NET_OK;
}

static int run(head *h, const void *const *inputs, void *const *outputs) {
#if NET_THREADS > 1
  h->inputs = inputs;
  h->outputs = outputs;
#endif
@dispatch@
}

int net_run(void *handle, const void *const *inputs, void *const *outputs) {
  int status;
  if (!handle || !inputs || !outputs) return NET_NULL_POINTER;
  status = enter(handle);
  if (status != NET_OK) return status;
  status = check_tensors((head *)handle, inputs, outputs);
  if (status == NET_OK) status = run((head *)handle, inputs, outputs);
  leave(handle);
  return status;
}

int net_run_checked(void *handle, const void *const *inputs, const size_t *input_bytes, void *const *outputs,
                    const size_t *output_bytes) {
  int i, status;
  uint32_t shape;
  if (!input_bytes || !output_bytes) return NET_NULL_POINTER;
  status = check_handle(handle);
  if (status != NET_OK) return status;
  shape = ((const head *)handle)->shape;
  for (i = 0; i < NET_INPUTS; i++)
    if (input_bytes[i] != input_table[shape][i].bytes) return NET_WRONG_SIZE;
  for (i = 0; i < NET_OUTPUTS; i++)
    if (output_bytes[i] != output_table[shape][i].bytes) return NET_WRONG_SIZE;
  return net_run(handle, inputs, outputs);
}
@more@"""

SELECT = """
int net_select(void *handle, int shape) {
  int status = enter(handle);
  if (status != NET_OK) return status;
  if (shape < 0 || shape >= SHAPES)
    status = NET_NO_SHAPE;
  else
    ((head *)handle)->shape = (uint32_t)shape;
  leave(handle);
  return status;
}

int net_shape_count(void) { return SHAPES; }

const net_tensor *net_input_of(int shape, int index) {
  return shape < 0 || shape >= SHAPES || index < 0 || index >= NET_INPUTS ? NULL : &input_table[shape][index];
}

const net_tensor *net_output_of(int shape, int index) {
  return shape < 0 || shape >= SHAPES || index < 0 || index >= NET_OUTPUTS ? NULL : &output_table[shape][index];
}
"""

MACHINE = """
const char *net_machine(const void *handle) {
  static const char *const names[] = {@names@};
  return check_handle(handle) == NET_OK ? names[((const head *)handle)->machine] : NULL;
}
"""

SHARED = """/* A task of a parallel phase, by one of the workers. */
static void shared(void *handle, int phase, int task, int tasks, int worker) {
  char *a = (char *)handle;
  const void *const *inputs = ((head *)handle)->inputs;
  void *const *outputs = ((head *)handle)->outputs;
  (void)a;
  (void)inputs;
  (void)outputs;
  switch (phase) {
@cases@
  }
}

/* All tasks of a phase: some for each thread, so that no slow one keeps the others waiting for long. */
static void share(head *h, int phase) {
  if (h->threads > 1)
    onnxc_pool_share(&h->pool, phase, 4 * (int)h->threads);
  else
    shared(h, phase, 0, 1, 0);
}
"""

PROGRAM = """static int program@number@(head *h, const void *const *inputs, void *const *outputs) {
  char *a = (char *)h;
  (void)a;
  (void)inputs;
  (void)outputs;
@calls@
  return @flags@;
}
"""

CLOCK = "#define _POSIX_C_SOURCE 199309L\n#include <time.h>\n"

LAPS = """
/* Nanoseconds of the clock before the first call of the last run and behind each; one handle at a time. */
static uint64_t stamps[@stamps@];
const uint64_t *net_laps(void);
const uint64_t *net_laps(void) { return stamps; }
static void stamp(int i) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  stamps[i] = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
"""
