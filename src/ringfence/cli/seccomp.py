"""The agent's seccomp profile (seccomp(2), in the form of the OCI runtime specification). Everything else is refused.

What the agent calls was written down with strace on a lab: capturing in its own and in another namespace, enrolling and
renewing. Beside those stand their variants on other architectures and C libraries, and what a runtime calls between
applying a profile and starting the program. No call loads a kernel module, traces another process or mounts.
"""

from __future__ import annotations

from typing import Any

FILES = """access chdir chmod close close_range dup dup2 dup3 faccessat faccessat2 fchdir fchmod fchmodat fcntl fdatasync
flock fstat fstatfs fsync ftruncate getcwd getdents64 inotify_add_watch inotify_init1 inotify_rm_watch ioctl lseek lstat
mkdir mkdirat newfstatat open openat openat2 pipe pipe2 pread64 preadv pwrite64 pwritev read readlink readlinkat readv
rename renameat renameat2 rmdir stat statfs statx umask unlink unlinkat write writev"""
MEMORY = "brk madvise mbind membarrier mmap mprotect mremap munmap"
NETWORK = """bind connect getpeername getsockname getsockopt recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setns
setsockopt shutdown socket socketpair"""
PROCESSES = """arch_prctl capget capset clone clone3 execve exit exit_group fork futex getegid geteuid getgid getpid getppid
getrandom getrlimit getrusage getuid gettid kill prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigreturn rt_sigtimedwait sched_getaffinity sched_yield set_robust_list set_tid_address setgid setgroups
setresgid setresuid setsid setuid sigaltstack sysinfo tgkill uname vfork wait4 waitid"""
WAITING = """clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2
gettimeofday nanosleep poll ppoll pselect6 select timerfd_create timerfd_settime"""
CAPTURE = "bpf"


def allowed() -> tuple[str, ...]:
    """Names of the system calls that are let through."""
    return tuple(sorted({*" ".join((FILES, MEMORY, NETWORK, PROCESSES, WAITING, CAPTURE)).split()}))


def profile() -> dict[str, Any]:
    """The profile as a kubelet reads it from its folder of profiles."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": list(allowed()), "action": "SCMP_ACT_ALLOW"}],
    }
