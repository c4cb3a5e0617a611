/* The threads of a handle; pool.h says what it does.
 *
 * A ticket counts the tasks that were taken from the first on and those from the last on, by workers of even and of odd numbers, so
 * that each finds what it made of the phases before in its own cache. It is taken by compare and swap of number and counts together,
 * so none of an older phase can be taken; and while a task is out its phase cannot end, so `phase` and `tasks` stand still. Who waits spins for some microseconds, as kernels
 * are that short, and then sleeps. Announcing sleep and checking what is waited for, and publishing that and checking
 * for sleepers, are sequentially consistent: either the publisher sees the sleeper, or the sleeper what was published.
 */
#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <signal.h>

enum { SPINS = 2000, HALF = 16, COUNT = 0xffff };

static uint32_t load(const uint32_t *from) { return __atomic_load_n(from, __ATOMIC_SEQ_CST); }
static uint64_t load_ticket(const onnxc_pool *pool) { return __atomic_load_n(&pool->ticket, __ATOMIC_SEQ_CST); }

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static void wake(onnxc_pool *pool, pthread_cond_t *sleepers) {
  /* written, not only read: some emulators let a load overtake the store before it, sequentially consistent or not */
  if (!__atomic_fetch_add(&pool->asleep, 0u, __ATOMIC_SEQ_CST)) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(sleepers);
  pthread_mutex_unlock(&pool->mutex);
}

/* Does tasks of the published phase as long as there are some. Returns the ticket that was not taken. */
static uint64_t help(onnxc_pool *pool, int worker) {
  uint64_t ticket = load_ticket(pool);
  for (;;) {
    uint32_t phase = __atomic_load_n(&pool->phase, __ATOMIC_RELAXED);
    uint32_t tasks = __atomic_load_n(&pool->tasks, __ATOMIC_RELAXED);
    uint32_t first = (uint32_t)ticket & COUNT, last = (uint32_t)ticket >> HALF, back = (uint32_t)worker & 1u;
    uint64_t taken = ticket + (back ? (uint64_t)1 << HALF : 1);
    if (first + last >= tasks) return ticket;
    if (!__atomic_compare_exchange_n(&pool->ticket, &ticket, taken, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
    pool->work(pool->context, (int)phase, (int)(back ? tasks - 1 - last : first), (int)tasks, worker);
    if (__atomic_add_fetch(&pool->done, 1u, __ATOMIC_SEQ_CST) == tasks && worker) wake(pool, &pool->finished);
    ticket = load_ticket(pool);
  }
}

/* Until the ticket's number is another than that of `last`. */
static void await_phase(onnxc_pool *pool, uint64_t last) {
  int i;
  for (i = 0; i < SPINS; i++) {
    if (load_ticket(pool) >> 32 != last >> 32) return;
    pause_briefly();
  }
  pthread_mutex_lock(&pool->mutex);
  __atomic_add_fetch(&pool->asleep, 1u, __ATOMIC_SEQ_CST);
  while (load_ticket(pool) >> 32 == last >> 32) pthread_cond_wait(&pool->published, &pool->mutex);
  __atomic_sub_fetch(&pool->asleep, 1u, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&pool->mutex);
}

static void await_done(onnxc_pool *pool, uint32_t tasks) {
  int i;
  for (i = 0; i < SPINS; i++) {
    if (load(&pool->done) == tasks) return;
    pause_briefly();
  }
  pthread_mutex_lock(&pool->mutex);
  __atomic_add_fetch(&pool->asleep, 1u, __ATOMIC_SEQ_CST);
  while (load(&pool->done) != tasks) pthread_cond_wait(&pool->finished, &pool->mutex);
  __atomic_sub_fetch(&pool->asleep, 1u, __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&pool->mutex);
}

/* The next number, for `tasks` tasks of a phase. The old phase is over: no ticket of it can be taken any more, for its counts
 * are at its number of tasks, and a smaller one must not meet them, nor a larger one without the new number. */
static void publish(onnxc_pool *pool, uint32_t phase, uint32_t tasks) {
  uint64_t number = (load_ticket(pool) >> 32) + 1;
  __atomic_store_n(&pool->ticket, number << 32 | UINT32_MAX, __ATOMIC_SEQ_CST); /* closed */
  __atomic_store_n(&pool->done, 0u, __ATOMIC_SEQ_CST);
  __atomic_store_n(&pool->phase, phase, __ATOMIC_SEQ_CST);
  __atomic_store_n(&pool->tasks, tasks, __ATOMIC_SEQ_CST);
  __atomic_store_n(&pool->ticket, (number + 1) << 32, __ATOMIC_SEQ_CST);
  wake(pool, &pool->published);
}

void onnxc_pool_share(onnxc_pool *pool, int phase, int tasks) {
  publish(pool, (uint32_t)phase, (uint32_t)tasks);
  help(pool, 0);
  await_done(pool, (uint32_t)tasks);
}

static void *serve(void *argument) {
  onnxc_pool *pool = (onnxc_pool *)argument;
  int worker = (int)__atomic_add_fetch(&pool->names, 1u, __ATOMIC_SEQ_CST);
  uint64_t last = 0;
  while (!load(&pool->stop)) { /* stop is set before the last number is published */
    await_phase(pool, last);
    last = help(pool, worker);
  }
  return NULL;
}

/* Ends the first `started` workers. */
static void end(onnxc_pool *pool, int started) {
  int i;
  __atomic_store_n(&pool->stop, 1u, __ATOMIC_SEQ_CST);
  publish(pool, 0, 0);
  for (i = 0; i < started; i++) pthread_join(pool->ids[i], NULL);
  pthread_cond_destroy(&pool->finished);
  pthread_cond_destroy(&pool->published);
  pthread_mutex_destroy(&pool->mutex);
}

int onnxc_pool_start(onnxc_pool *pool, int threads, onnxc_work work, void *context) {
  sigset_t all, before;
  int i, failed = 0;
  pool->work = work;
  pool->context = context;
  pool->threads = (uint32_t)threads;
  pool->ticket = 0;
  pool->phase = pool->tasks = pool->done = pool->asleep = pool->names = pool->stop = 0;
  if (pthread_mutex_init(&pool->mutex, NULL)) return 1;
  if (pthread_cond_init(&pool->published, NULL)) {
    pthread_mutex_destroy(&pool->mutex);
    return 1;
  }
  if (pthread_cond_init(&pool->finished, NULL)) {
    pthread_cond_destroy(&pool->published);
    pthread_mutex_destroy(&pool->mutex);
    return 1;
  }
  sigfillset(&all); /* the workers inherit it: signals are the program's business */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (i = 0; i + 1 < threads && !failed; i++) failed = pthread_create(&pool->ids[i], NULL, serve, pool) != 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (failed) end(pool, i - 1);
  return failed;
}

void onnxc_pool_stop(onnxc_pool *pool) { end(pool, (int)pool->threads - 1); }
