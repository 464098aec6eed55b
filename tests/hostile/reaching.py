"""Attacks that reach for what is not theirs: the host, the agent, other jobs, the network, the kernel."""

from hostile.attack import NAMESPACED, Attack, refused, said
from runnerd import Result
from runnerd.agent import syscalls

NUMBERS = syscalls.numbers()
FORBIDDEN = """
    io_uring_setup userfaultfd bpf perf_event_open keyctl add_key request_key ptrace process_vm_readv process_vm_writev kcmp
    mount umount2 open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr setns unshare pivot_root chroot
    open_by_handle_at name_to_handle_at kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff
    acct quotactl settimeofday clock_settime adjtimex syslog process_madvise pidfd_getfd fanotify_init clone3 sethostname
"""
CALLS = {name: NUMBERS[name] for name in FORBIDDEN.split()}
EVERY_CALL = f"for name, number in {CALLS!r}.items():\n    tried(name, lambda: call(number))\n"


def ended_by_itself(result: Result) -> bool:
    """Whatever it got, it did not come by it through somebody else."""
    return result.status in ("ok", "failed")


REACHING = (
    Attack(
        "files of the host",
        "T-18 T-34 T-55",
        """
for path in ("@SECRET@", "/etc/shadow", "/root/.ssh", "/root", "/var/log", "/run/secrets", "/proc/kcore", "/proc/kmsg", "/dev/kmsg",
             "/dev/mem", "/dev/kvm", "/dev/vda", "/sys/fs/cgroup", "/sys/kernel", "/etc/machine-id", "/proc/sysrq-trigger"):
    tried(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(64))
""",
        refused,
    ),
    Attack(
        "writing outside of the workspace",
        "T-55",
        """
for path in ("@SECRET@", "@DIRECTORY@/new", "/usr/bin/python3", "/usr/x", "/x", "/etc/x", "/etc/passwd", "/dev/x",
             "/proc/sys/kernel/core_pattern",
             "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/proc/1/oom_score_adj"):
    tried(path, lambda: open(path, "r+b" if os.path.exists(path) else "wb").write(b"x"))
    tried("mode of " + path, lambda: os.chmod(path, 0o777))
""",
        refused,
    ),
    Attack(
        "cgroups",
        "T-55",
        """
for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/proc/1/root/sys/fs/cgroup"):
    for name in ("cgroup.procs", "cgroup.kill", "release_agent", "notify_on_release", "memory.limit_in_bytes", "memory.max"):
        tried(name, lambda: open(f"{base}/{name}", "r+b"))
""",
        refused,
    ),
    Attack(
        "who and where am I",
        "T-18 T-34 T-39",
        """
print(socket.gethostname(), os.getresuid(), os.getresgid(), sorted(set(os.getgroups()) - {os.getgid()}))
print(sorted(os.environ))
print([line.strip().rpartition(":")[2] for line in open("/proc/self/cgroup")])
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("Cap", "NoNewPrivs", "Seccomp:"))])
print(sorted(int(p) for p in os.listdir("/proc") if p.isdigit()))
""",
        lambda result: (
            result.status == "ok"
            and result.stdout.startswith("sandbox (")
            and "(0," not in result.stdout
            and result.stdout.splitlines()[0].endswith("[]")
            and set(eval(result.stdout.splitlines()[2])) == {"/"}
            and eval(result.stdout.splitlines()[3]) == ["0" * 16] * 5 + ["1", "2"]
            and len(eval(result.stdout.splitlines()[4])) <= 2
            and not {"SECRET", "AWS_SECRET_ACCESS_KEY", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"} & set(eval(result.stdout.splitlines()[1]))
        ),
        levels=NAMESPACED,
    ),
    Attack(
        "memory, environment and files of other processes",
        "T-34 T-36 T-40",
        """
for pid in (1, os.getppid(), @PID@, @AGENT@):
    for name in ("environ", "mem", "maps", "fd", "cwd/", "root/etc/shadow", "exe"):
        path = f"/proc/{pid}/{name}"
        tried(path, lambda: os.listdir(path) if name in ("fd", "cwd/") else open(path, "r+b" if name == "exe" else "rb").read(64))
    tried(f"ptrace {pid}", lambda: call(@ptrace@, 16, pid))
    tried(f"process_vm_readv {pid}", lambda: call(@process_vm_readv@, pid))
""",
        refused,
    ),
    Attack(
        "signals to everybody",
        "T-14 T-35 T-36 T-40",
        """
own = {os.getpid(), os.getpgrp()}
for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
    for pid in (@PID@, @AGENT@, os.getppid(), 1):
        try: os.kill(pid, number)
        except OSError: pass
        try: os.killpg(pid, number)
        except OSError: pass
    if number == signal.SIGTERM: signal.signal(number, signal.SIG_IGN)
    try: os.kill(-1, number)
    except OSError: pass
reached = 0
for pid in range(2, 65_536):
    if pid in own: continue
    try: os.kill(pid, 0); reached += 1
    except OSError: pass
print("reached", reached)
""",
        said("reached 0"),
    ),
    Attack(
        "priorities and limits of others",
        "T-36",
        """
import resource
for pid in (@PID@, @AGENT@, os.getppid()):
    tried("nice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    tried("limits", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)))
    tried("scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
tried("nice of all of a user", lambda: os.setpriority(os.PRIO_USER, 0, 19))
""",
        refused,
    ),
    Attack(
        "more privileges",
        "T-39",
        """
import subprocess
tried("setuid", lambda: os.setuid(0))
tried("setresuid", lambda: os.setresuid(0, 0, 0))
tried("setgid", lambda: os.setgid(0))
tried("setgroups", lambda: os.setgroups([0]))
found = [os.path.join("/usr/bin", n) for n in os.listdir("/usr/bin")]
found = [p for p in found if os.path.isfile(p) and os.stat(p).st_mode & 0o6000]
for path in ("/usr/bin/su", "/usr/bin/mount", *found[:3]):
    run = lambda: subprocess.run([path, "-c", "id -u"], stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=5).stdout
    tried(path, run)
""",
        refused,
    ),
    Attack(
        "inherited descriptors",
        "T-37",
        """
look = '''import os
for fd in range(256):
  try:
    os.fstat(fd)
    print(fd, end=" ")
  except OSError: pass'''
os.execv("/usr/bin/python3", ["python3", "-I", "-S", "-c", look])
""",
        said("0 1 2 "),
    ),
    Attack(
        "code that runs before the sandbox is shut",
        "T-38",
        """
print("uid", os.getuid(), "early" in sys.modules, os.environ.get("PYTHONSTARTUP"))
tried("secret", lambda: open("@SECRET@").read())
""",
        lambda result: result.status == "ok" and "uid 0 " not in result.stdout and "GOT" not in result.stdout,
        env={
            "LD_PRELOAD": "/mnt/data/early.so",
            "PYTHONPATH": "/mnt/data",
            "PYTHONSTARTUP": "/mnt/data/early.py",
            "PYTHONHOME": "/mnt/data",
        },
    ),
    Attack(
        "the host's services",
        "T-41 T-42 T-43 T-45",
        """
for family, address in ((socket.AF_INET, ("127.0.0.1", @PORT@)), (socket.AF_INET6, ("::1", @PORT@)),
                        (socket.AF_INET, ("169.254.169.254", 80)),
                        (socket.AF_INET, ("10.0.0.1", 443)), (socket.AF_INET6, ("fd00:ec2::254", 80)), (socket.AF_UNIX, "\\0@ABSTRACT@"),
                        (socket.AF_UNIX, "@SOCKET@"), (socket.AF_UNIX, "@DIRECTORY@/socket"), (socket.AF_UNIX, "/run/docker.sock")):
    def connect():
        with socket.socket(family) as client:
            client.settimeout(5)
            client.connect(address)
    tried(str(address), connect)
""",
        refused,
    ),
    Attack(
        "names and datagrams",
        "T-44",
        """
started = time.monotonic()
tried("resolve", lambda: socket.getaddrinfo("example.com", 80))
for resolver in ("8.8.8.8", "127.0.0.53", "224.0.0.251"):
    tried(resolver, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (resolver, 53)))
""",
        refused,
        limits={"wall_s": 10.0},
    ),
    Attack(
        "raw and odd sockets",
        "T-17 T-45",
        """
for family, kind in ((socket.AF_INET, socket.SOCK_RAW), (socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_NETLINK, socket.SOCK_RAW),
                     (38, socket.SOCK_SEQPACKET), (40, socket.SOCK_STREAM), (31, socket.SOCK_RAW), (44, socket.SOCK_RAW),
                     (30, socket.SOCK_DGRAM)):
    tried(str(family), lambda: socket.socket(family, kind))
""",
        refused,
    ),
    Attack(
        "system calls that no job needs",
        "T-48",
        f"for name, number in {CALLS!r}.items():\n    tried(name, lambda: call(number))\n",
        refused,
    ),
    Attack(
        "new namespaces",
        "T-48",
        "for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):\n"
        "    tried(hex(flag), lambda: call(@clone@, flag | 17))\n"
        "    tried(hex(flag), lambda: call(@unshare@, flag))\n",
        refused,
    ),
    Attack(
        "system calls of other conventions",
        "T-49",
        """
import mmap, platform
if platform.machine() != "x86_64": print("refused there are none"); sys.exit()
tried("x32", lambda: call(0x40000000 | @getpid@))
def i386():
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=7)
    memory.write(b"\\x53\\xb8\\x14\\0\\0\\0\\xcd\\x80\\x5b\\xc3")
    got = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
    if got < 0: raise OSError(-got, os.strerror(-got))
    return got
pid = os.fork()
if pid == 0:
    tried("i386", i386)
    os._exit(0)
os.wait()
""",
        refused,
    ),
    Attack(
        "every system call",
        "T-50",
        """
skipped = @SKIPPED@
killed = []
for number in range(601):
    if number in skipped: continue
    pid = os.fork()
    if pid == 0:
        try: call(number)
        except OSError: pass
        finally: os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status): killed.append((number, status))
print("killed", killed)
""",
        said("killed []"),
    ),
    Attack(
        "terminals",
        "T-52",
        """
import fcntl
tried("/dev/tty", lambda: open("/dev/tty"))
tried("/dev/ptmx", lambda: open("/dev/ptmx"))
tried("/dev/console", lambda: open("/dev/console"))
for request in (0x5412, 0x541C, 1 << 32 | 0x5412):
    tried("ioctl", lambda: call(@ioctl@, 0, request, ctypes.c_char_p(b"x")))
""",
        refused,
    ),
    Attack(
        "a core dump",
        "T-53",
        """
import mmap, resource
tried("limit", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)))
ctypes.string_at(0)
""",
        lambda result: (result.status, result.signal, result.files) == ("failed", 11, ()) and "GOT" not in result.stdout,
    ),
    Attack("abort", "T-53", "os.abort()\n", lambda result: (result.status, result.signal) == ("failed", 6)),
    Attack("SIGTERM to oneself", "T-14", "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n", lambda result: result.signal == 15),
    Attack(
        "many arguments",
        "T-54",
        "print(len(sys.argv), sum(map(len, sys.argv)))\n",
        said("20001 "),
        args=tuple("x" * 60 for _ in range(20_000)),
    ),
    Attack(
        "argument vectors of nothing and of megabytes",
        "T-54",
        """
import subprocess
tried("two megabytes", lambda: subprocess.run(["/bin/true", "x" * (2 << 20)], check=True))
tried("a hundred megabytes", lambda: subprocess.run(["/bin/true", *["x" * 100_000] * 1000], check=True))
tried("NUL", lambda: subprocess.run(["/bin/true"], env={"A": "b\\0c"}))
""",
        refused,
    ),
    Attack(
        "the next job's way in",
        "T-33 T-40",
        """
sys.modules["json"] = None
import builtins
builtins.open = builtins.print = lambda *a, **k: None
for module in list(sys.modules.values()):
    for name in list(vars(module) or ()) if module is not None and hasattr(module, "__dict__") else ():
        if name.startswith("_run") or name in ("pack", "run", "collect", "write"):
            try: setattr(module, name, None)
            except Exception: pass
""",
        ended_by_itself,
    ),
)
"""What one job may not see, touch or tell."""
