/* Eight threads with a handle each run a library many times; every output must be the same bytes, whatever the number
 * of threads of a handle. argv: runs a thread */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

enum { THREADS = 8 };
static float input[NET_INPUT0_BYTES / sizeof(float)];
static char *wanted[NET_OUTPUTS];
static long runs;

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void *memory(size_t bytes) {
  void *made;
  if (posix_memalign(&made, NET_ARENA_ALIGN, bytes)) fail("no memory");
  return made;
}

/* init looks whether a handle with threads lives there: checkers of memory want to see that the bytes were set. */
static void *clear(void *arena) { return memset(arena, 0, NET_ARENA_ALIGN); }

static void *work(void *unused) {
  void *arena = clear(memory(NET_ARENA_BYTES));
  const void *inputs[NET_INPUTS] = {input};
  void *outputs[NET_OUTPUTS];
  long i;
  int j;
  (void)unused;
  for (j = 0; j < NET_OUTPUTS; j++) outputs[j] = memory(net_output(j)->bytes);
  if (net_init_checked(arena, NET_ARENA_BYTES, NET_THREADS)) fail("init");
  for (i = 0; i < runs; i++) {
    for (j = 0; j < NET_OUTPUTS; j++) memset(outputs[j], 0xA5, net_output(j)->bytes);
    if (net_run(arena, inputs, outputs)) fail("run");
    for (j = 0; j < NET_OUTPUTS; j++)
      if (memcmp(outputs[j], wanted[j], net_output(j)->bytes)) fail("other bytes");
  }
  if (net_free(arena)) fail("free");
  free(arena);
  for (j = 0; j < NET_OUTPUTS; j++) free(outputs[j]);
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t threads[THREADS];
  void *arena = clear(memory(NET_ARENA_BYTES));
  const void *inputs[NET_INPUTS] = {input};
  void *outputs[NET_OUTPUTS];
  size_t i;
  int j;
  runs = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
  for (i = 0; i < sizeof input / sizeof *input; i++) input[i] = (float)(i % 17) / 8 - 1;
  for (j = 0; j < NET_OUTPUTS; j++) outputs[j] = wanted[j] = memory(net_output(j)->bytes);
  if (net_init(arena, 1) || net_run(arena, inputs, outputs) || net_free(arena)) fail("first run");
  free(arena);
  for (i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, work, NULL)) fail("no thread");
  for (i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (j = 0; j < NET_OUTPUTS; j++) free(wanted[j]);
  printf("same bytes in %ld runs\n", runs * THREADS);
  return 0;
}
