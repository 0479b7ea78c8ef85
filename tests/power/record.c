/* Writes down what a process does to the files below $POWER_ROOT, in order, into $POWER_LOG: everything that could be lost
 * in a power cut, and every sync that keeps it. Loaded into the backend by tests/tests/power.rs (LD_PRELOAD), which plays
 * the record back up to any point, without what was not synced there.
 *
 * A record is one byte for what it is, seven 64-bit numbers (process, descriptor, offset, length, flags, length of two
 * texts), the texts, and the data. Each is one write to a file that is opened for appending, so that others may write
 * records of their own into it. What changes files is written down and done under one lock: the order is the true one. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 65536

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static int record_file = -1;
static char root[4096];
static size_t root_length;
static unsigned char watched[FILES];

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void start(void) {
    const char *directory = getenv("POWER_ROOT"), *path = getenv("POWER_LOG");
    if (!directory || !path) return;
    snprintf(root, sizeof root, "%s", directory);
    root_length = strlen(root);
    record_file = REAL(open64)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (record_file < 0) abort();
}

/* The path below the root that a name means, or NULL if it is elsewhere. */
static const char *below(int directory, const char *name, char *space) {
    if (record_file < 0 || !name) return NULL;
    if (name[0] == '/' ) {
        snprintf(space, 8192, "%s", name);
    } else {
        char link[64], base[4096];
        if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return NULL;
        base[length] = 0;
        snprintf(space, 8192, "%s/%s", base, name);
    }
    if (strncmp(space, root, root_length) || (space[root_length] && space[root_length] != '/')) return NULL;
    const char *rest = space + root_length;
    while (*rest == '/') rest++;
    return rest;
}

static void note(char kind, int64_t fd, int64_t offset, int64_t flags, const char *one, const char *two, const void *data, int64_t length) {
    int64_t numbers[7] = {getpid(), fd, offset, length, flags, one ? strlen(one) : 0, two ? strlen(two) : 0};
    struct iovec parts[5] = {
        {&kind, 1}, {numbers, sizeof numbers}, {(void *)one, numbers[5]}, {(void *)two, numbers[6]}, {(void *)data, data ? length : 0},
    };
    size_t whole = 1 + sizeof numbers + numbers[5] + numbers[6] + (data ? length : 0);
    if (REAL(writev)(record_file, parts, 5) != (ssize_t)whole) abort();
}

static int is_watched(int fd) { return fd >= 0 && fd < FILES && watched[fd]; }

#define LOCK pthread_mutex_lock(&lock)
#define UNLOCK do { int kept = errno; pthread_mutex_unlock(&lock); errno = kept; } while (0)

static int opened(int directory, const char *name, int flags, mode_t mode) {
    char space[8192];
    const char *path = below(directory, name, space);
    if (!path || strcmp(path, "LOCK") == 0) return REAL(openat64)(directory, name, flags, mode);
    LOCK;
    struct stat found;
    int was_there = fstatat(directory, name, &found, 0) == 0;
    int fd = REAL(openat64)(directory, name, flags, mode);
    if (fd >= 0 && fd < FILES) {
        watched[fd] = 1;
        /* Flags: 1 for a file that was not there, 2 for one that was emptied, 4 for appending. */
        note('o', fd, 0, (was_there ? 0 : 1) | (flags & O_TRUNC ? 2 : 0) | (flags & O_APPEND ? 4 : 0), path, NULL, NULL, 0);
    }
    UNLOCK;
    return fd;
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
int open(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int openat(int directory, const char *name, int flags, ...) { MODE return opened(directory, name, flags, mode); }
int openat64(int directory, const char *name, int flags, ...) { MODE return opened(directory, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    if (!is_watched(fd)) return REAL(close)(fd);
    LOCK;
    watched[fd] = 0;
    note('c', fd, 0, 0, NULL, NULL, NULL, 0);
    int outcome = REAL(close)(fd);
    UNLOCK;
    return outcome;
}

/* It closes behind close's back, and the next socket would take the number for a file's. */
int closedir(DIR *directory) {
    int fd = dirfd(directory);
    if (!is_watched(fd)) return REAL(closedir)(directory);
    LOCK;
    watched[fd] = 0;
    note('c', fd, 0, 0, NULL, NULL, NULL, 0);
    int outcome = REAL(closedir)(directory);
    UNLOCK;
    return outcome;
}

static ssize_t written(int fd, const void *data, size_t length, off64_t offset, int moves) {
    LOCK;
    if (moves) {
        int appends = REAL(fcntl)(fd, F_GETFL) & O_APPEND;
        offset = lseek64(fd, 0, appends ? SEEK_END : SEEK_CUR);
        if (offset < 0) {
            /* No file any more: it was closed in a way that is not seen here. */
            watched[fd] = 0;
            note('c', fd, 0, 0, NULL, NULL, NULL, 0);
            UNLOCK;
            return REAL(write)(fd, data, length);
        }
    }
    ssize_t outcome = moves ? REAL(write)(fd, data, length) : REAL(pwrite64)(fd, data, length, offset);
    if (outcome > 0) note('w', fd, offset, 0, NULL, NULL, data, outcome);
    UNLOCK;
    return outcome;
}

ssize_t write(int fd, const void *data, size_t length) {
    return is_watched(fd) ? written(fd, data, length, 0, 1) : REAL(write)(fd, data, length);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return is_watched(fd) ? written(fd, data, length, offset, 0) : REAL(pwrite)(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return is_watched(fd) ? written(fd, data, length, offset, 0) : REAL(pwrite64)(fd, data, length, offset);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!is_watched(fd)) return REAL(writev)(fd, parts, count);
    /* A short write is allowed: the first part that has something. */
    for (int at = 0; at < count; at++)
        if (parts[at].iov_len) return written(fd, parts[at].iov_base, parts[at].iov_len, 0, 1);
    return 0;
}

/* What was written before the sync began is safe once it has ended. */
static int synced(int fd, int (*sync)(int)) {
    if (!is_watched(fd)) return sync(fd);
    LOCK;
    note('s', fd, 0, 0, NULL, NULL, NULL, 0);
    UNLOCK;
    int outcome = sync(fd);
    LOCK;
    if (outcome == 0) note('S', fd, 0, 0, NULL, NULL, NULL, 0);
    UNLOCK;
    return outcome;
}
int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

static int shortened(int fd, off64_t length) {
    LOCK;
    int outcome = REAL(ftruncate64)(fd, length);
    if (outcome == 0) note('t', fd, length, 0, NULL, NULL, NULL, 0);
    UNLOCK;
    return outcome;
}
int ftruncate(int fd, off_t length) { return is_watched(fd) ? shortened(fd, length) : REAL(ftruncate)(fd, length); }
int ftruncate64(int fd, off64_t length) { return is_watched(fd) ? shortened(fd, length) : REAL(ftruncate64)(fd, length); }

static int moved(int from_directory, const char *from, int to_directory, const char *to, char kind) {
    char one[8192], two[8192];
    const char *source = below(from_directory, from, one), *target = below(to_directory, to, two);
    LOCK;
    int outcome = kind == 'r' ? REAL(renameat)(from_directory, from, to_directory, to) : REAL(linkat)(from_directory, from, to_directory, to, 0);
    if (outcome == 0 && source && target) note(kind, -1, 0, 0, source, target, NULL, 0);
    UNLOCK;
    return outcome;
}
int rename(const char *from, const char *to) { return moved(AT_FDCWD, from, AT_FDCWD, to, 'r'); }
int renameat(int a, const char *from, int b, const char *to) { return moved(a, from, b, to, 'r'); }
int link(const char *from, const char *to) { return moved(AT_FDCWD, from, AT_FDCWD, to, 'l'); }

static int removed(int directory, const char *name, int flags) {
    char space[8192];
    const char *path = below(directory, name, space);
    LOCK;
    int outcome = REAL(unlinkat)(directory, name, flags);
    if (outcome == 0 && path) note('u', -1, 0, 0, path, NULL, NULL, 0);
    UNLOCK;
    return outcome;
}
int unlink(const char *name) { return removed(AT_FDCWD, name, 0); }
int unlinkat(int directory, const char *name, int flags) { return removed(directory, name, flags); }

int mkdir(const char *name, mode_t mode) {
    char space[8192];
    const char *path = below(AT_FDCWD, name, space);
    LOCK;
    int outcome = REAL(mkdir)(name, mode);
    if (outcome == 0 && path) note('m', -1, 0, 0, path, NULL, NULL, 0);
    UNLOCK;
    return outcome;
}
