/* The threads of a handle; pool.h says what it does.
 *
 * The barrier counts arrivals; the last one opens the next round. Who waits spins for some microseconds, as kernels are
 * that short, and then sleeps. The store of `round` and the load of `asleep`, and the store of `asleep` and the load of
 * `round`, are sequentially consistent: either the opener sees the sleeper and wakes it, or the sleeper sees the round.
 */
#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <signal.h>

enum { SPINS = 2000 };

static uint32_t load(const uint32_t *from) { return __atomic_load_n(from, __ATOMIC_SEQ_CST); }

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static void sleep_until_after(onnxc_pool *pool, uint32_t round) {
  pthread_mutex_lock(&pool->mutex);
  __atomic_add_fetch(&pool->asleep, 1u, __ATOMIC_SEQ_CST);
  while (load(&pool->round) == round) pthread_cond_wait(&pool->wake, &pool->mutex);
  __atomic_sub_fetch(&pool->asleep, 1u, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&pool->mutex);
}

void onnxc_pool_barrier(onnxc_pool *pool) {
  uint32_t round = load(&pool->round);
  int i;
  if (__atomic_add_fetch(&pool->arrived, 1u, __ATOMIC_SEQ_CST) == load(&pool->threads)) {
    __atomic_store_n(&pool->arrived, 0u, __ATOMIC_SEQ_CST);
    __atomic_store_n(&pool->round, round + 1, __ATOMIC_SEQ_CST);
    if (load(&pool->asleep)) {
      pthread_mutex_lock(&pool->mutex);
      pthread_cond_broadcast(&pool->wake);
      pthread_mutex_unlock(&pool->mutex);
    }
    return;
  }
  for (i = 0; i < SPINS; i++) {
    if (load(&pool->round) != round) return;
    pause_briefly();
  }
  sleep_until_after(pool, round);
}

static void *serve(void *argument) {
  onnxc_pool *pool = (onnxc_pool *)argument;
  int task = (int)__atomic_add_fetch(&pool->names, 1u, __ATOMIC_SEQ_CST);
  for (;;) {
    onnxc_pool_barrier(pool);
    if (pool->stop) return NULL;
    pool->work(pool->context, task, (int)pool->threads);
    onnxc_pool_barrier(pool);
  }
}

/* Ends `started` threads, which wait for a round. */
static void give_up(onnxc_pool *pool, int started) {
  int i;
  pool->stop = 1;
  __atomic_store_n(&pool->threads, (uint32_t)started + 1, __ATOMIC_SEQ_CST);
  onnxc_pool_barrier(pool);
  for (i = 0; i < started; i++) pthread_join(pool->ids[i], NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->mutex);
}

int onnxc_pool_start(onnxc_pool *pool, int threads, onnxc_work work, void *context) {
  sigset_t all, before;
  int i, failed = 0;
  pool->work = work;
  pool->context = context;
  pool->threads = (uint32_t)threads;
  pool->arrived = pool->round = pool->asleep = pool->names = pool->stop = 0;
  if (pthread_mutex_init(&pool->mutex, NULL)) return 1;
  if (pthread_cond_init(&pool->wake, NULL)) {
    pthread_mutex_destroy(&pool->mutex);
    return 1;
  }
  sigfillset(&all); /* the threads inherit it: signals are the program's business */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (i = 0; i + 1 < threads && !failed; i++) failed = pthread_create(&pool->ids[i], NULL, serve, pool) != 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (failed) give_up(pool, i - 1);
  return failed;
}

void onnxc_pool_run(onnxc_pool *pool) {
  onnxc_pool_barrier(pool);
  pool->work(pool->context, 0, (int)pool->threads);
  onnxc_pool_barrier(pool);
}

void onnxc_pool_stop(onnxc_pool *pool) { give_up(pool, (int)pool->threads - 1); }
