// A static program that runs inside containers and prints the results of system calls.
//
//   syscalls native|compat FIRST LAST   a line "NUMBER RESULT" for each number, called with arguments that are all -1
//   syscalls one NUMBER ARGUMENTS...    the error's number of one call, 0 when there is none
//   syscalls one-compat NUMBER          the same by the i386 entry, with arguments that are all -1
//   syscalls thread NUMBER              a second thread makes the call; "the first thread lives" if it is not killed
//   syscalls trap NUMBER                "trapped CALL DATA" from a handler of SIGSYS, else the error's number
//   syscalls agent SOCKET ERROR         outside a container: what a runtime sends to a seccomp listener, see agent()
//
// RESULT is ok, an error's number, or "signal N". "compat" is the i386 entry, int 0x80.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile long *result;

static long compat(long number) {
    long value = -ENOSYS;
#if defined(__x86_64__)
    // The kernel may clobber what the 32-bit convention lets it.
    __asm__ volatile("int $0x80"
                     : "=a"(value)
                     : "a"(number), "b"(-1L), "c"(-1L), "d"(-1L), "S"(-1L), "D"(-1L)
                     : "r8", "r9", "r10", "r11", "memory", "cc");
    value = (int)value;
#else
    (void)number;
#endif
    return value;
}

static int is_skipped(int is_compat, long number) {
    // fork, vfork, sync, kill: the first two return twice, the third waits for every disk, and the last depends on the other
// processes. The fifth, sigsuspend, blocks the alarm; only i386 has it.
static const long native_numbers[] = {57, 58, 162, 62, -1};
    static const long compat_numbers[] = {2, 190, 36, 37, 72};
    const long *list = is_compat ? compat_numbers : native_numbers;
    for (int place = 0; place < 5; place++) {
        if (number == list[place]) {
            return 1;
        }
    }
    return 0;
}

static void print(long number, int status) {
    if (WIFSIGNALED(status)) {
        printf("%ld signal %d\n", number, WTERMSIG(status));
    } else if (*result < 0 && *result > -4096) {
        printf("%ld %ld\n", number, -*result);
    } else {
        printf("%ld ok\n", number);
    }
}

// Makes the call in a child, and returns the child's status; -1 without a child.
static int attempt(int is_compat, long number, struct timeval timeout) {
    *result = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct itimerval limit = {{0, 0}, timeout};
        struct rlimit no_core = {0, 0};
        setitimer(ITIMER_REAL, &limit, NULL);
        setrlimit(RLIMIT_CORE, &no_core);
        long value;
        if (is_compat) {
            value = compat(number);
        } else {
            value = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
            if (value == -1) {
                value = -errno;
            }
        }
        *result = value;
        _exit(0);
    }
    int status;
    return child > 0 && waitpid(child, &status, __WALL) == child ? status : -1;
}

static void probe(int is_compat, long number) {
    // An alarm ends a call that blocks. The first attempt has a short timeout; the second has a longer one, for a child
    // that a busy machine has not scheduled.
    static const struct timeval timeouts[] = {{0, 250000}, {5, 0}};
    int status = attempt(is_compat, number, timeouts[0]);
    if (status != -1 && WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        status = attempt(is_compat, number, timeouts[1]);
    }
    if (status != -1) {
        print(number, status);
    }
}

static void *call_from_thread(void *number) {
    syscall(*(long *)number, -1L, -1L, -1L, -1L, -1L, -1L);
    return NULL;
}

static int thread(long number) {
    pthread_t other;
    if (pthread_create(&other, NULL, call_from_thread, &number) != 0 || pthread_join(other, NULL) != 0) {
        return 2;
    }
    printf("the first thread lives\n");
    return 0;
}

static void trapped(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    char line[64];
    int length = snprintf(line, sizeof line, "trapped %d %d\n", info->si_syscall, info->si_errno);
    _exit(write(1, line, (size_t)length) == length ? 0 : 2);
}

static int trap(long number) {
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    printf("%d\n", syscall(number, -1L, -1L, -1L, -1L, -1L, -1L) == -1 ? errno : 0);
    return 0;
}

// Answers one notification of the kernel with the error.
static void answer(int listener, int error) {
    struct seccomp_notif call;
    memset(&call, 0, sizeof call);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0) {
        struct seccomp_notif_resp response = {.id = call.id, .error = -error};
        printf("call %d\n", call.data.nr);
        fflush(stdout);
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
    }
}

// The data of a connection so far.
struct received {
    char text[65536];
    size_t length;
    int messages, first, later, listener;
};

// Takes one message; false at the end of the stream.
static int receive(int peer, struct received *so_far) {
    struct iovec part = {so_far->text + so_far->length, sizeof so_far->text - 1 - so_far->length};
    char control[256];
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t got = recvmsg(peer, &message, MSG_CMSG_CLOEXEC);
    if (got <= 0) {
        return 0;
    }
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS) {
        int here = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(&so_far->listener, CMSG_DATA(header), sizeof so_far->listener);
        *(so_far->messages == 0 ? &so_far->first : &so_far->later) += here;
    }
    so_far->messages++;
    so_far->length += (size_t)got;
    return 1;
}

// One connection, to the end of its stream and of the last process under the filter.
static void serve(int peer, int error) {
    static struct received so_far = {.listener = -1};
    for (;;) {
        struct pollfd both[2] = {{.fd = peer, .events = POLLIN}, {.fd = so_far.listener, .events = POLLIN}};
        if (poll(both, 2, 30000) <= 0) {
            return;
        }
        // If both are ready, the connection counts as closed before the call, because their order depends on the scheduler.
        int calls = (both[1].revents & POLLIN) != 0;
        if (calls && peer != -1 && poll(both, 1, 10000) < 0) {
            return;
        }
        if (both[0].revents != 0 && !receive(peer, &so_far)) {
            for (char *at = so_far.text; (at = strchr(at, '\n')) != NULL;) {
                *at = ' ';
            }
            printf("state %d %d %s\n", so_far.first, so_far.later, so_far.text);
            fflush(stdout);
            close(peer);
            peer = -1;
        } else if (both[0].revents == 0 && calls) {
            answer(so_far.listener, error);
        } else if (both[0].revents == 0 && both[1].revents != 0) {
            close(so_far.listener);
            so_far.listener = -1;
        }
        if (peer == -1 && so_far.listener == -1) {
            return;
        }
    }
}

// Serves each connection in a process of its own. Prints, at the end of its stream, a line "state FIRST LATER JSON": how
// many descriptors came with the first message, how many with later ones, and the payload; and "call NUMBER" for each
// notification of the kernel.
static int agent(const char *path, int error) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s.new", path);
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // The socket gets its name once it listens, so that a client that sees the name can connect.
    if (length >= (int)sizeof address.sun_path || bind(server, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(server, 8) != 0 || rename(address.sun_path, path) != 0) {
        perror("agent");
        return 2;
    }
    for (;;) {
        int peer = accept(server, NULL, NULL);
        if (peer >= 0 && fork() == 0) {
            serve(peer, error);
            _exit(0);
        }
        close(peer);
    }
}

int main(int count, char **words) {
    result = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (count < 3 || result == MAP_FAILED) {
        return 2;
    }
    if (strcmp(words[1], "one") == 0) {
        long arguments[6] = {0};
        for (int place = 3; place < count && place < 9; place++) {
            arguments[place - 3] = strtol(words[place], NULL, 0);
        }
        long value = syscall(strtol(words[2], NULL, 0), arguments[0], arguments[1], arguments[2], arguments[3],
                             arguments[4], arguments[5]);
        printf("%d\n", value == -1 ? errno : 0);
        return 0;
    }
    if (strcmp(words[1], "one-compat") == 0) {
        long value = compat(atol(words[2]));
        printf("%ld\n", value < 0 ? -value : 0);
        return 0;
    }
    if (strcmp(words[1], "thread") == 0) {
        return thread(atol(words[2]));
    }
    if (strcmp(words[1], "trap") == 0) {
        return trap(atol(words[2]));
    }
    if (strcmp(words[1], "agent") == 0 && count > 3) {
        return agent(words[2], atoi(words[3]));
    }
    int is_compat = strcmp(words[1], "compat") == 0;
    for (long number = atol(words[2]); number <= atol(words[3]); number++) {
        if (!is_skipped(is_compat, number)) {
            probe(is_compat, number);
        }
    }
    return 0;
}
