// The launcher: starts commands, waits for their exit, and prints the elapsed time. Linked statically, so that the parent
// of the contenders is small: a large launcher pays for its own page tables, locks and collector with every child, and that
// price, the same for all, would draw every ratio towards 1.
//
//   launcher PROGRAM WORD...      one command: "NANOSECONDS\n" on stdout
//   launcher --at-once N CHAIN    many, from stdin: words that each end in a NUL byte, a command in an empty word. Each
//                                 CHAIN commands follow one another; N chains are under way at a time. It prints the
//                                 nanoseconds of all of them together
//   launcher --executed PROGRAM WORD...   one command: for how many nanoseconds tasks ran on CPU 0 until its end, those of
//                                 the kernel too. Where a nanosecond is an instruction (spec-tests/beds/qemu --count),
//                                 these are instructions
//
// The time of a command runs from just before vfork to just after the reaping. It includes the creation of a process and
// its exec, everything that it does until its exit, the wake-up of this process, and nothing else: PROGRAM is an absolute path, and
// standard input and output are /dev/null already when the clock starts. The launcher does not wait for processes that
// outlive the command, such as a container. A command that fails ends the launcher with its status, and the launcher's stderr is
// the command's own.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(call)                                                     \
    ({                                                                  \
        long value = (long)(call);                                      \
        if (value < 0) {                                                \
            fprintf(stderr, "launcher: %s: %s\n", #call, strerror(errno)); \
            exit(1);                                                    \
        }                                                               \
        value;                                                          \
    })

static long long now(void) {
    struct timespec time;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &time));
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

// The kernel adds a task's run time to the sum when the task leaves the CPU; therefore the reader has to leave it first.
static long long ran(void) {
    const struct timespec moment = {.tv_nsec = 1000000};
    char text[4096];
    long long total;
    CHECK(nanosleep(&moment, NULL));
    int fd = CHECK(open("/proc/schedstat", O_RDONLY | O_CLOEXEC));
    text[CHECK(read(fd, text, sizeof text - 1))] = '\0';
    CHECK(close(fd));
    // The seventh figure of cpu0 (Documentation/scheduler/sched-stats.rst).
    const char *line = strstr(text, "\ncpu0 ");
    if (!line || sscanf(line, " cpu0 %*u %*u %*u %*u %*u %*u %lld", &total) != 1) {
        fprintf(stderr, "launcher: /proc/schedstat has no line of cpu0\n");
        exit(1);
    }
    return total;
}

static pid_t start(char **words) {
    pid_t pid = CHECK(vfork());
    if (pid == 0) {
        execv(words[0], words);
        _exit(127);
    }
    return pid;
}

static void demand_success(int status) {
    if (status)
        exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// Commands of `text`, whose words are laid out in `words`: the first word of each, and its number in *count.
static char ***parse(char *text, size_t size, size_t *count) {
    char **words = malloc((size + 1) * sizeof *words);
    char ***commands = malloc((size + 1) * sizeof *commands);
    if (!words || !commands)
        exit(1);
    *count = 0;
    for (char *end = text + size, **first = words; text < end; text += strlen(text) + 1) {
        *words++ = *text ? text : NULL;
        if (!*text) {
            commands[(*count)++] = first;
            first = words;
        }
    }
    return commands;
}

static char *read_all(size_t *size) {
    size_t room = 1 << 16;
    char *text = malloc(room);
    for (*size = 0;;) {
        ssize_t got = CHECK(read(0, text + *size, room - *size));
        *size += got;
        if (got == 0)
            return text;
        if (*size == room)
            text = realloc(text, room *= 2);
    }
}

static void run_chains(char ***commands, size_t count, size_t at_once, size_t length) {
    struct {
        pid_t pid;
        size_t next, end;
    } under_way[at_once];
    size_t begun = 0, active = 0;
    for (; active < at_once && begun < count; active++, begun += length) {
        under_way[active].next = begun + 1;
        under_way[active].end = begun + length < count ? begun + length : count;
        under_way[active].pid = start(commands[begun]);
    }
    while (active > 0) {
        int status;
        pid_t pid = CHECK(waitpid(-1, &status, 0));
        demand_success(status);
        size_t slot = 0;
        while (under_way[slot].pid != pid)
            slot++;
        if (under_way[slot].next == under_way[slot].end) {
            if (begun >= count) {
                under_way[slot] = under_way[--active];
                continue;
            }
            under_way[slot].next = begun;
            under_way[slot].end = begun + length < count ? begun + length : count;
            begun += length;
        }
        under_way[slot].pid = start(commands[under_way[slot].next++]);
    }
}

int main(int count, char **words) {
    int many = count == 4 && strcmp(words[1], "--at-once") == 0;
    int executed = count > 2 && strcmp(words[1], "--executed") == 0;
    words += executed;
    count -= executed;
    if (count < 2 || (!many && *words[1] != '/')) {
        fprintf(stderr, "launcher: usage: see the head of launcher.c\n");
        return 2;
    }
    size_t size = 0, commands_count = 0;
    char ***commands = NULL;
    if (many) {
        char *text = read_all(&size);
        commands = parse(text, size, &commands_count);
    }
    int results = CHECK(fcntl(1, F_DUPFD_CLOEXEC, 3));
    int null = CHECK(open("/dev/null", O_RDWR | O_CLOEXEC));
    CHECK(dup2(null, 0));
    CHECK(dup2(null, 1));
    int status = 0;
    long long begin = executed ? ran() : now();
    if (many)
        run_chains(commands, commands_count, atoi(words[2]), atoi(words[3]));
    else
        CHECK(waitpid(start(words + 1), &status, 0));
    long long took = (executed ? ran() : now()) - begin;
    demand_success(status);
    dprintf(results, "%lld\n", took);
    return 0;
}
