/* Init where the system gives too few threads, and again where it gives them. Linked with --wrap=pthread_create. */
#include <pthread.h>
#include <stdio.h>

#include "net.h"

static char arena[NET_ARENA_BYTES] __attribute__((aligned(64)));
static float x[NET_INPUT0_BYTES / 4], y[NET_OUTPUT0_BYTES / 4], z[NET_OUTPUT1_BYTES / 4];
static int left;

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *how, void *(*start)(void *), void *argument) {
  return left-- > 0 ? __real_pthread_create(id, how, start, argument) : 11;
}

int main(void) {
  const void *inputs[] = {x};
  void *outputs[] = {y, z};
  int threads;
  for (threads = 2; threads <= NET_THREADS; threads++)
    for (left = 0; left < threads;) {
      int given = left, status = net_init(arena, threads);
      if (given + 1 < threads) {
        if (status != NET_NO_THREADS || net_run(arena, inputs, outputs) != NET_NOT_INITIALISED) return 1;
      } else {
        if (status != NET_OK || net_run(arena, inputs, outputs) != NET_OK || net_free(arena) != NET_OK) return 2;
      }
      left = given + 1;
    }
  printf("ended\n");
  return 0;
}
