// The limit: the cost of a container in the kernel alone. The same container that the benches' bundle describes, made
// with the system calls that it takes and with nothing else: no configuration is read, nothing is checked, no error is
// explained, nothing keeps an attacker out. Linked statically.
//
//   limit run    STATE ROOTFS FILTER PROGRAM...   makes it, runs it, waits, removes it
//   limit create STATE ROOTFS FILTER PROGRAM...   makes it, up to the gate
//   limit start | state | delete STATE
//   limit kill   STATE SIGNAL
//   limit exec   STATE FILTER PROGRAM...
//   limit filter PID                              writes the newest seccomp program of a process to stdout
//   limit install FILTER                          installs it, and writes what that took, and one getpid below it, in ns
//   limit cpuid PROGRAM...                        runs it step by step, and writes how often it executed CPUID to stderr
//   limit nothing                                 starts and ends: the price of a process
//
// STATE is a directory of the container's own; its base name is also that of its cgroup. FILTER is a file of classic BPF
// instructions, or "none".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(call)                                                                 \
    ({                                                                              \
        long value = (long)(call);                                                  \
        if (value < 0) {                                                            \
            fprintf(stderr, "limit: line %d: %s: %s\n", __LINE__, #call, strerror(errno)); \
            _exit(1);                                                               \
        }                                                                           \
        value;                                                                      \
    })

static struct sock_filter instructions[8192];
static struct sock_fprog filter;

static void load_filter(const char *path) {
    if (strcmp(path, "none") == 0)
        return;
    int fd = CHECK(open(path, O_RDONLY | O_CLOEXEC));
    ssize_t size = CHECK(read(fd, instructions, sizeof instructions));
    close(fd);
    filter.len = size / sizeof instructions[0];
    filter.filter = instructions;
}

static void mask(const char *path) {
    struct stat info;
    if (stat(path, &info) < 0)
        return;
    if (S_ISDIR(info.st_mode))
        CHECK(mount("tmpfs", path, "tmpfs", MS_RDONLY, NULL));
    else
        CHECK(mount("/dev/null", path, NULL, MS_BIND, NULL));
}

static void read_only(const char *path) {
    if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) == 0)
        CHECK(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

static void node(const char *path, unsigned major_number, unsigned minor_number) {
    CHECK(mknod(path, S_IFCHR | 0666, makedev(major_number, minor_number)));
}

static void loopback_up(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static void make_root(const char *rootfs) {
    static const char *const masked[] = {"proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats",
        "proc/timer_list", "proc/timer_stats", "proc/sched_debug", "sys/firmware", "proc/scsi"};
    static const char *const readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    CHECK(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    CHECK(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL));
    CHECK(chdir(rootfs));
    CHECK(mount("proc", "proc", "proc", 0, NULL));
    CHECK(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    CHECK(mkdir("dev/pts", 0755));
    CHECK(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    CHECK(mkdir("dev/shm", 01777));
    CHECK(mount("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k"));
    CHECK(mkdir("dev/mqueue", 0755));
    CHECK(mount("mqueue", "dev/mqueue", "mqueue", quiet, NULL));
    CHECK(mount("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL));
    CHECK(mount("cgroup2", "sys/fs/cgroup", "cgroup2", quiet | MS_RDONLY | MS_RELATIME, NULL));
    node("dev/null", 1, 3);
    node("dev/zero", 1, 5);
    node("dev/full", 1, 7);
    node("dev/random", 1, 8);
    node("dev/urandom", 1, 9);
    node("dev/tty", 5, 0);
    CHECK(symlink("/proc/self/fd", "dev/fd"));
    CHECK(symlink("/proc/self/fd/0", "dev/stdin"));
    CHECK(symlink("/proc/self/fd/1", "dev/stdout"));
    CHECK(symlink("/proc/self/fd/2", "dev/stderr"));
    CHECK(symlink("pts/ptmx", "dev/ptmx"));
    CHECK(syscall(SYS_pivot_root, ".", "."));
    CHECK(umount2(".", MNT_DETACH));
    CHECK(chdir("/"));
    for (size_t i = 0; i < sizeof readonly / sizeof *readonly; i++)
        read_only(readonly[i]);
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++)
        mask(masked[i]);
}

// The last steps before the program, the same for a new container and for an exec. `gate` is read from, unless it is -1.
static void become(char **program, int gate) {
    const unsigned kept = 1u << CAP_AUDIT_WRITE | 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE;
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        if (capability >= 32 || !(kept & 1u << capability))
            CHECK(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0));
    CHECK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
    CHECK(setgroups(0, NULL));
    CHECK(setgid(0));
    CHECK(setuid(0));
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{kept, kept, 0}, {0, 0, 0}};
    CHECK(syscall(SYS_capset, &header, data));
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (gate >= 0) {
        char byte;
        CHECK(read(gate, &byte, 1));
    }
    CHECK(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC));
    if (filter.len)
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
    char *environment[] = {"PATH=/bin", "TERM=xterm", NULL};
    CHECK(execve(program[0], program, environment));
}

static char *in_state(const char *state, const char *name) {
    char *path;
    CHECK(asprintf(&path, "%s/%s", state, name));
    return path;
}

static char *cgroup_of(char *state) {
    char *path;
    CHECK(asprintf(&path, "/sys/fs/cgroup/%s", basename(strdupa(state))));
    return path;
}

static int read_number(const char *path) {
    char text[32] = "";
    int fd = CHECK(open(path, O_RDONLY | O_CLOEXEC));
    CHECK(read(fd, text, sizeof text - 1));
    close(fd);
    return atoi(text);
}

static int clone_into(const char *cgroup, unsigned long long flags, int *pidfd) {
    int directory = CHECK(open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct clone_args args = {
        .flags = flags | CLONE_INTO_CGROUP | CLONE_PIDFD,
        .pidfd = (unsigned long)pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = directory,
    };
    int pid = CHECK(syscall(SYS_clone3, &args, sizeof args));
    close(directory);
    return pid;
}

static void end_cgroup(char *state) {
    CHECK(rmdir(cgroup_of(state)));
}

static int create(char *state, const char *rootfs, char **program, int has_gate, int *pidfd) {
    int gate = -1, ready[2];
    CHECK(mkdir(state, 0711));
    CHECK(mkdir(cgroup_of(state), 0755));
    if (has_gate) {
        CHECK(mkfifo(in_state(state, "gate"), 0600));
        gate = CHECK(open(in_state(state, "gate"), O_RDWR | O_CLOEXEC));
    }
    CHECK(pipe2(ready, O_CLOEXEC));
    int pid = clone_into(cgroup_of(state),
        CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWCGROUP, pidfd);
    if (pid == 0) {
        CHECK(setsid());
        syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, "limit");
        loopback_up();
        CHECK(sethostname("limit", 5));
        make_root(rootfs);
        CHECK(write(ready[1], "r", 1));
        become(program, gate);
    }
    close(ready[1]);
    char byte;
    if (CHECK(read(ready[0], &byte, 1)) != 1)
        _exit(1);
    char text[32];
    int record = CHECK(open(in_state(state, "pid"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    CHECK(write(record, text, snprintf(text, sizeof text, "%d", pid)));
    close(record);
    return pid;
}

static void end_state(char *state) {
    unlink(in_state(state, "gate"));
    CHECK(unlink(in_state(state, "pid")));
    CHECK(rmdir(state));
}

static int run(char *state, const char *rootfs, char **program) {
    int pidfd, status;
    int pid = create(state, rootfs, program, 0, &pidfd);
    CHECK(waitpid(pid, &status, 0));
    end_cgroup(state);
    end_state(state);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void start(char *state) {
    int gate = CHECK(open(in_state(state, "gate"), O_WRONLY | O_CLOEXEC));
    CHECK(write(gate, "s", 1));
    CHECK(unlink(in_state(state, "gate")));
}

static void print_state(char *state) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", read_number(in_state(state, "pid")));
    int fd = CHECK(open(path, O_RDONLY | O_CLOEXEC));
    ssize_t size = CHECK(read(fd, text, sizeof text));
    CHECK(write(1, text, size));
}

static void send_kill(char *state, int number) {
    int pidfd = CHECK(syscall(SYS_pidfd_open, read_number(in_state(state, "pid")), 0));
    CHECK(syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0));
}

static int execute(char *state, char **program) {
    int pidfd, status;
    int target = CHECK(syscall(SYS_pidfd_open, read_number(in_state(state, "pid")), 0));
    // The namespace of pids is for children only, and so is joined before the clone.
    CHECK(setns(target, CLONE_NEWPID));
    int pid = clone_into(cgroup_of(state), 0, &pidfd);
    if (pid == 0) {
        CHECK(setns(target, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWCGROUP));
        CHECK(setsid());
        CHECK(chdir("/"));
        become(program, -1);
    }
    CHECK(waitpid(pid, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void delete(char *state) {
    int pidfd = syscall(SYS_pidfd_open, read_number(in_state(state, "pid")), 0);
    if (pidfd >= 0) {
        struct pollfd end = {.fd = pidfd, .events = POLLIN};
        CHECK(poll(&end, 1, 5000));
    }
    end_cgroup(state);
    end_state(state);
}

// One instruction after the other, of the first thread of the first process.
static void count_cpuid(char **program) {
    int status, pid = CHECK(fork());
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        CHECK(execv(program[0], program));
    }
    long count = 0;
    for (CHECK(waitpid(pid, &status, 0)); WIFSTOPPED(status); CHECK(waitpid(pid, &status, 0))) {
        int signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
        struct user_regs_struct registers;
        CHECK(ptrace(PTRACE_GETREGS, pid, NULL, &registers));
        // The two bytes 0f a2.
        count += signal == 0 && (ptrace(PTRACE_PEEKTEXT, pid, registers.rip, NULL) & 0xffff) == 0xa20f;
        CHECK(ptrace(PTRACE_SINGLESTEP, pid, NULL, (long)signal));
    }
    fprintf(stderr, "%ld\n", count);
    exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static void print_filter(int pid) {
    CHECK(ptrace(PTRACE_SEIZE, pid, NULL, NULL));
    CHECK(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL));
    CHECK(waitpid(pid, NULL, 0));
    long length = CHECK(ptrace(PTRACE_SECCOMP_GET_FILTER, pid, 0L, instructions));
    CHECK(write(1, instructions, length * sizeof instructions[0]));
    CHECK(ptrace(PTRACE_DETACH, pid, NULL, NULL));
}

static long now(void) {
    struct timespec time;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &time));
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void install(void) {
    enum { CALLS = 1000000 };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    long begin = now();
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
    long installed = now();
    for (int i = 0; i < CALLS; i++)
        syscall(SYS_getpid);
    printf("%d %ld %.1f\n", filter.len, installed - begin, (double)(now() - installed) / CALLS);
}

int main(int count, char **words) {
    const char *verb = count > 1 ? words[1] : "";
    if (strcmp(verb, "nothing") == 0)
        return 0;
    if (strcmp(verb, "cpuid") == 0 && count > 2)
        count_cpuid(words + 2);
    if (strcmp(verb, "filter") == 0 && count == 3) {
        print_filter(atoi(words[2]));
        return 0;
    }
    if (strcmp(verb, "install") == 0 && count == 3) {
        load_filter(words[2]);
        install();
        return 0;
    }
    if (count > 5 && (strcmp(verb, "run") == 0 || strcmp(verb, "create") == 0)) {
        int pidfd;
        load_filter(words[4]);
        if (*verb == 'r')
            return run(words[2], words[3], words + 5);
        create(words[2], words[3], words + 5, 1, &pidfd);
    } else if (count > 4 && strcmp(verb, "exec") == 0) {
        load_filter(words[3]);
        return execute(words[2], words + 4);
    } else if (count == 4 && strcmp(verb, "kill") == 0) {
        send_kill(words[2], atoi(words[3]));
    } else if (count == 3 && strcmp(verb, "start") == 0) {
        start(words[2]);
    } else if (count == 3 && strcmp(verb, "state") == 0) {
        print_state(words[2]);
    } else if (count == 3 && strcmp(verb, "delete") == 0) {
        delete(words[2]);
    } else {
        fprintf(stderr, "limit: usage: see the head of limit.c\n");
        return 2;
    }
    return 0;
}
