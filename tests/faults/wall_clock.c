/* SPDX-License-Identifier: Apache-2.0
 * A wall clock that can be set under running programs: preloaded, it adds the nanoseconds in the file named by
 * WALL_CLOCK_OFFSET to CLOCK_REALTIME, and waits with a wall-clock deadline end by the clock as it then is. The
 * monotonic clock is left alone, as it is when somebody sets the clock of a machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
/* A clock that is set while somebody waits is noticed within this time. */
#define SLICE (SECOND / 100)

static volatile const int64_t *offset_ns;
static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_cond)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_sem)(sem_t *, const struct timespec *);
static int (*real_mutex)(pthread_mutex_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("WALL_CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
        if (page != MAP_FAILED)
            offset_ns = page;
        close(file);
    }
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    real_cond = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    real_sem = dlsym(RTLD_NEXT, "sem_timedwait");
    real_mutex = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
}

static int64_t offset(void) { return offset_ns ? *offset_ns : 0; }

static int64_t to_ns(const struct timespec *t) { return t->tv_sec * SECOND + t->tv_nsec; }

static struct timespec from_ns(int64_t ns)
{
    struct timespec t = {ns / SECOND, ns % SECOND};
    return t;
}

static int64_t true_now(void)
{
    struct timespec t;
    real_clock(CLOCK_REALTIME, &t);
    return to_ns(&t);
}

int clock_gettime(clockid_t id, struct timespec *t)
{
    int status = real_clock ? real_clock(id, t) : (int)syscall(SYS_clock_gettime, id, t);
    if (status == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        *t = from_ns(to_ns(t) + offset());
    return status;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *t)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t)
        *t = now.tv_sec;
    return now.tv_sec;
}

/* The end of the next slice of a wait until `deadline` by the set clock; *last says whether that is the deadline. */
static struct timespec slice(const struct timespec *deadline, int *last)
{
    int64_t end = to_ns(deadline) - offset(), soon = true_now() + SLICE;
    *last = end <= soon;
    return from_ns(*last ? (end > 0 ? end : 0) : soon);
}

int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict t)
{
    int last, status;
    struct timespec end;
    /* glibc notes there that this condition waits by the monotonic clock. */
    if (c->__data.__wrefs & 2)
        return real_cond(c, m, t);
    end = slice(t, &last);
    status = real_cond(c, m, &end);
    /* Woken without cause, as conditions may be: whoever waits looks at the clock and waits again. */
    return status == ETIMEDOUT && !last ? 0 : status;
}

int sem_timedwait(sem_t *restrict s, const struct timespec *restrict t)
{
    int last, status;
    do {
        struct timespec end = slice(t, &last);
        status = real_sem(s, &end);
    } while (status != 0 && errno == ETIMEDOUT && !last);
    return status;
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict m, const struct timespec *restrict t)
{
    int last, status;
    do {
        struct timespec end = slice(t, &last);
        status = real_mutex(m, &end);
    } while (status == ETIMEDOUT && !last);
    return status;
}
