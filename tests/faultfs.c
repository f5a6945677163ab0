/* A file system that hands everything on to a folder, and misbehaves where it is told to, as NFS, Lustre and GPFS do.
 *
 *   faultfs FOLDER MOUNTPOINT RULES [-o FUSE-OPTION ...]
 *
 * RULES is a file that is read again whenever it changes. A line is: OPERATIONS PATH ACTION [TIMES [AFTER]]
 *   OPERATIONS  with commas: getattr mkdir unlink rmdir rename link chmod truncate open openw create read write flush
 *               fsync readdir flock; `*`: all
 *   PATH        a part of the path; `*`: any
 *   ACTION      err=NAME     fail so, and do nothing
 *               late=NAME    write: drop the bytes and say that all is well; flush (close), fsync: fail so
 *               delay=MS     wait first
 *               newino=1     getattr: another inode number each time
 *               direct=1     open: past the page cache, so that nothing can be mapped and shared
 *   TIMES       so often, then never again; AFTER: so many calls are let through first
 * FAULTFS_LOCKS=local: locks hold within this mount only, so that two mounts are two nodes whose locks do not meet.
 * What is unlinked while it is open stays as .fuse_hidden*, as NFS keeps .nfs*. */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RULES = 32 };

struct rule {
    char operations[160], path[160], action[16], value[24];
    long times, after;
};

static const char *folder, *rules_path;
static struct rule rules[MAX_RULES];
static int num_rules;
static struct timespec read_at;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const struct { const char *name; int number; } ERRORS[] = {
    {"EACCES", EACCES}, {"EDQUOT", EDQUOT}, {"EIO", EIO}, {"ENODEV", ENODEV}, {"ENOLCK", ENOLCK}, {"ENOSPC", ENOSPC},
    {"ENOSYS", ENOSYS}, {"ENOTEMPTY", ENOTEMPTY}, {"EOPNOTSUPP", EOPNOTSUPP}, {"EROFS", EROFS}, {"ESTALE", ESTALE}};

static int number_of(const char *name) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (!strcmp(name, ERRORS[i].name)) return ERRORS[i].number;
    fprintf(stderr, "faultfs: unknown error %s\n", name);
    abort();
}

static void read_rules(void) {
    struct stat found;
    if (stat(rules_path, &found)) { num_rules = 0; return; }
    if (!memcmp(&found.st_mtim, &read_at, sizeof read_at)) return;
    read_at = found.st_mtim, num_rules = 0;
    FILE *file = fopen(rules_path, "r");
    char line[400], action[48];
    while (file && fgets(line, sizeof line, file) && num_rules < MAX_RULES) {
        struct rule *rule = &rules[num_rules];
        rule->times = -1, rule->after = 0;
        if (sscanf(line, "%159s %159s %47s %ld %ld", rule->operations, rule->path, action, &rule->times, &rule->after) >= 3
            && sscanf(action, "%15[^=]=%23s", rule->action, rule->value) == 2)
            num_rules++;
    }
    if (file) fclose(file);
}

static int lists(const char *operations, const char *operation) {
    size_t length = strlen(operation);
    if (!strcmp(operations, "*")) return 1;
    for (const char *at = operations; (at = strstr(at, operation)); at += length)
        if ((at == operations || at[-1] == ',') && (!at[length] || at[length] == ',')) return 1;
    return 0;
}

/* The value of the rule that holds for this call, which counts it; none: 0. */
static const char *told(const char *operation, const char *path, const char *action) {
    static __thread char value[24];
    const char *found = 0;
    pthread_mutex_lock(&mutex);
    uid_t user = setfsuid(0);
    read_rules();
    setfsuid(user);
    for (int i = 0; i < num_rules && !found; i++) {
        struct rule *rule = &rules[i];
        int is_meant = lists(rule->operations, operation) && !strcmp(rule->action, action)
                       && (!strcmp(rule->path, "*") || (path && strstr(path, rule->path)));
        if (!is_meant || !rule->times) continue;
        if (rule->after > 0) { rule->after--; continue; }
        if (rule->times > 0) rule->times--;
        found = strcpy(value, rule->value);
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

static int begin(const char *operation, const char *path) {
    struct fuse_context *caller = fuse_get_context();
    setfsuid(0), setfsgid(caller->gid), setfsuid(caller->uid);
    const char *value = told(operation, path, "delay");
    if (value) usleep(1000 * atol(value));
    value = told(operation, path, "err");
    return value ? -number_of(value) : 0;
}

static const char *real(const char *path) {
    static __thread char buffers[2][4200];
    static __thread int which;
    which = !which;
    snprintf(buffers[which], sizeof buffers[which], "%s%s", folder, path);
    return buffers[which];
}

#define BEGIN(operation) do { int error_ = begin(operation, path); if (error_) return error_; } while (0)
#define ANSWER(call) return (call) < 0 ? -errno : 0

static int do_getattr(const char *path, struct stat *found, struct fuse_file_info *file) {
    static unsigned long inode = 1000000;
    BEGIN("getattr");
    if ((file ? fstat(file->fh, found) : lstat(real(path), found)) < 0) return -errno;
    if (told("getattr", path, "newino")) found->st_ino = inode++;
    return 0;
}
static int do_readlink(const char *path, char *target, size_t size) {
    BEGIN("readlink");
    ssize_t length = readlink(real(path), target, size - 1);
    if (length >= 0) target[length] = 0;
    ANSWER(length);
}
static int do_mkdir(const char *path, mode_t mode) { BEGIN("mkdir"); ANSWER(mkdir(real(path), mode)); }
static int do_unlink(const char *path) { BEGIN("unlink"); ANSWER(unlink(real(path))); }
static int do_rmdir(const char *path) { BEGIN("rmdir"); ANSWER(rmdir(real(path))); }
static int do_symlink(const char *target, const char *path) { BEGIN("symlink"); ANSWER(symlink(target, real(path))); }
static int do_link(const char *from, const char *path) { BEGIN("link"); ANSWER(link(real(from), real(path))); }
static int do_chmod(const char *path, mode_t mode, struct fuse_file_info *file) {
    BEGIN("chmod");
    ANSWER(chmod(real(path), mode));
}
static int do_chown(const char *path, uid_t user, gid_t group, struct fuse_file_info *file) {
    BEGIN("chown");
    ANSWER(lchown(real(path), user, group));
}
static int do_rename(const char *from, const char *path, unsigned flags) {
    BEGIN("rename");
    ANSWER(flags ? renameat2(AT_FDCWD, real(from), AT_FDCWD, real(path), flags) : rename(real(from), real(path)));
}
static int do_truncate(const char *path, off_t size, struct fuse_file_info *file) {
    BEGIN("truncate");
    ANSWER(file ? ftruncate(file->fh, size) : truncate(real(path), size));
}
static int do_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *file) {
    BEGIN("utimens");
    ANSWER(utimensat(AT_FDCWD, real(path), times, AT_SYMLINK_NOFOLLOW));
}
static int opened(const char *path, int descriptor, struct fuse_file_info *file) {
    if (descriptor < 0) return -errno;
    file->fh = descriptor, file->direct_io = told("open", path, "direct") != 0;
    return 0;
}
static int do_open(const char *path, struct fuse_file_info *file) {
    if (file->flags & O_ACCMODE) BEGIN("openw");
    BEGIN("open");
    return opened(path, open(real(path), file->flags & ~O_DIRECT), file);
}
static int do_create(const char *path, mode_t mode, struct fuse_file_info *file) {
    BEGIN("create");
    return opened(path, open(real(path), file->flags & ~O_DIRECT, mode), file);
}
static int do_read(const char *path, char *out, size_t size, off_t at, struct fuse_file_info *file) {
    BEGIN("read");
    ssize_t length = pread(file->fh, out, size, at);
    return length < 0 ? -errno : length;
}
static int do_write(const char *path, const char *in, size_t size, off_t at, struct fuse_file_info *file) {
    BEGIN("write");
    if (told("write", path, "late")) return ftruncate(file->fh, at + size) ? -errno : (int)size;
    ssize_t length = file->flags & O_APPEND ? write(file->fh, in, size) : pwrite(file->fh, in, size, at);
    return length < 0 ? -errno : length;
}
static int do_flush(const char *path, struct fuse_file_info *file) {
    BEGIN("flush");
    const char *value = fcntl(file->fh, F_GETFL) & O_ACCMODE ? told("flush", path, "late") : 0;
    return value ? -number_of(value) : 0;
}
static int do_fsync(const char *path, int only_data, struct fuse_file_info *file) {
    BEGIN("fsync");
    const char *value = told("fsync", path, "late");
    if (value) return -number_of(value);
    ANSWER(fsync(file->fh));
}
static int do_release(const char *path, struct fuse_file_info *file) { return close(file->fh); }
static int do_readdir(const char *path, void *out, fuse_fill_dir_t fill, off_t at, struct fuse_file_info *file,
                      enum fuse_readdir_flags flags) {
    BEGIN("readdir");
    DIR *listed = opendir(real(path));
    if (!listed) return -errno;
    for (struct dirent *entry; (entry = readdir(listed));) fill(out, entry->d_name, 0, 0, 0);
    return closedir(listed);
}
static int do_fsyncdir(const char *path, int only_data, struct fuse_file_info *file) { return 0; }
static int do_statfs(const char *path, struct statvfs *found) { BEGIN("statfs"); ANSWER(statvfs(real(path), found)); }
static int do_fallocate(const char *path, int mode, off_t at, off_t size, struct fuse_file_info *file) {
    BEGIN("fallocate");
    ANSWER(fallocate(file->fh, mode, at, size));
}
static int do_flock(const char *path, struct fuse_file_info *file, int how) { BEGIN("flock"); ANSWER(flock(file->fh, how)); }
static void *do_init(struct fuse_conn_info *connection, struct fuse_config *config) { config->use_ino = 1; return 0; }

int main(int count, char **given) {
    if (count < 4) return fprintf(stderr, "faultfs FOLDER MOUNTPOINT RULES [-o FUSE-OPTION ...]\n"), 2;
    folder = given[1], rules_path = given[3];
    umask(0);
    struct fuse_operations operations = {
        .init = do_init, .getattr = do_getattr, .readlink = do_readlink, .mkdir = do_mkdir, .unlink = do_unlink,
        .rmdir = do_rmdir, .symlink = do_symlink, .link = do_link, .chmod = do_chmod, .chown = do_chown, .rename = do_rename,
        .truncate = do_truncate, .utimens = do_utimens, .open = do_open, .create = do_create, .read = do_read,
        .write = do_write, .flush = do_flush, .fsync = do_fsync, .fsyncdir = do_fsyncdir, .release = do_release,
        .readdir = do_readdir, .statfs = do_statfs, .fallocate = do_fallocate, .flock = do_flock};
    const char *locks = getenv("FAULTFS_LOCKS");
    if (locks && !strcmp(locks, "local")) operations.flock = 0;
    char *arguments[16] = {given[0], given[2], "-f", "-o", "allow_other,fsname=faultfs"};
    int num = 5;
    for (int i = 4; i < count && num < 15; i++) arguments[num++] = given[i];
    return fuse_main(num, arguments, &operations, 0);
}
