"""Escape attempts as data: each is the body of a function that returns True only if the forbidden act succeeded.

`P` holds what the test planted outside (paths, ports, pids); `sys_(number, ...)` makes a raw system call and returns
its result or raises OSError. `teeth` marks attempts that must succeed at level none, which shows that they can.
`evidence` names something that the test looks at from outside, where success inside alone would prove nothing.
System call numbers are x86-64's; a call that has its own number on aarch64 is skipped there.
"""

from __future__ import annotations

from dataclasses import dataclass

PRELUDE = """
import ctypes, os, sys, platform, struct, resource
P = {planted!r}
X86 = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def sys_(number, *arguments):
    words = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def attempt():
{body}
try:
    escaped = attempt() is True
except BaseException as error:
    print(type(error).__name__, error)
    escaped = False
sys.stdout.flush()
os._exit(0 if escaped else 1)
"""


@dataclass(frozen=True)
class Attempt:
    """One forbidden act."""

    name: str
    body: str
    teeth: bool = False
    evidence: str = ""

    def program(self, planted: dict[str, object]) -> str:
        """Source of the whole program."""
        lines = "\n".join("    " + line for line in self.body.strip().splitlines())
        return PRELUDE.format(planted=planted, body=lines)


def _a(name: str, body: str, *, teeth: bool = False, evidence: str = "") -> Attempt:
    return Attempt(name, body, teeth, evidence)


FILES = (
    _a("read a secret file", "return 'planted' in open(P['secret']).read()", teeth=True),
    _a("list a directory outside", "return 'secret.txt' in os.listdir(P['outside'])", teeth=True),
    _a("list the root directory", "return len(os.listdir('/')) > 0", teeth=True),
    _a("read /etc/passwd", "return 'root' in open('/etc/passwd').read()", teeth=True),
    _a("read stage 2", "return bool(open(P['stage2']).read())", teeth=True),
    _a("secret in its own environment", "return 'RUNE_TEST_SECRET' in os.environ"),
    _a(
        "secret in another process's environment",
        """
for name in filter(str.isdigit, os.listdir('/proc')):
    try:
        if b'RUNE_TEST_SECRET' in open(f'/proc/{name}/environ', 'rb').read():
            return True
    except OSError:
        pass
""",
        teeth=True,
    ),
    _a("own /proc entry", "return bool(open('/proc/self/environ', 'rb').read())", teeth=True),
    _a(
        "an inherited descriptor",
        """
for descriptor in range(3, 1024):
    try:
        os.fstat(descriptor)
        return True
    except OSError:
        pass
""",
    ),
    _a("write outside", "open(P['outside'] + '/new', 'w').write('x'); return True", teeth=True),
    _a(
        "write through a symbolic link",
        "os.symlink(P['outside'], 'link'); open('link/by-link', 'w').write('x'); return True",
        teeth=True,
    ),
    _a("hard link of a secret", "os.link(P['secret'], 'copy'); return 'planted' in open('copy').read()", teeth=True),
    _a(
        "write through procfs root",
        "open('/proc/self/root' + P['outside'] + '/by-proc', 'w').write('x'); return True",
        teeth=True,
    ),
    _a(
        "read through a parent's procfs root",
        "return 'planted' in open(f'/proc/{os.getppid()}/root' + P['secret']).read()",
    ),
    _a("climb out with ..", "return 'planted' in open('../' * 40 + P['secret']).read()", teeth=True),
    _a("rename a file outside", "os.rename(P['rename'], P['rename'] + '.moved'); return True", teeth=True),
    _a("delete a file outside", "os.unlink(P['unlink']); return True", teeth=True),
    _a("truncate a file outside", "os.truncate(P['truncate'], 0); return True", teeth=True),
    _a("make a directory outside", "os.mkdir(P['outside'] + '/directory'); return True", teeth=True),
    _a("change a mode outside", "os.chmod(P['mode'], 0o777)", teeth=True, evidence="mode"),
    _a("change a mode outside by fchmodat2", "sys_(452, -100, P['mode2'].encode(), 0o777, 0)", evidence="mode2"),
    _a("change a time outside", "os.utime(P['times'], (1, 1))", teeth=True, evidence="times"),
    _a("change a device's time", "os.utime('/dev/null', (1, 1))", evidence="device"),
    _a("set an attribute outside", "os.setxattr(P['secret'], 'user.x', b'1'); return True"),
    _a("write the interpreter", "open(sys.base_prefix + '/rune-escape', 'w').write('x')", evidence="prefix"),
    _a("write a shared library directory", "open('/usr/lib/rune-escape', 'w').write('x')", evidence="usr"),
    _a("write the machine's /dev/shm", "open(P['shm'], 'w').write('x')", teeth=True, evidence="shm"),
    _a("write the machine's /tmp", "open(P['tmp'], 'w').write('x')", teeth=True, evidence="tmp"),
    _a("make a device node", "os.mknod('disk', 0o60666, os.makedev(254, 0)); return bool(open('disk', 'rb').read(1))"),
    _a("make a named pipe", "os.mkfifo('pipe'); return True", teeth=True),
    _a("open a disk", "return bool(open(P['disk'], 'rb').read(1))"),
    _a("open the kernel log", "os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK); return True"),
    _a("open a terminal", "os.openpty(); return True", teeth=True),
    _a("write a kernel setting", "open('/proc/sys/kernel/hostname', 'w').write(os.uname().nodename); return True"),
    _a("list sysfs", "return bool(os.listdir('/sys/class'))", teeth=True),
    _a(
        "run a program of its own making",
        """
open('tool', 'w').write('#!/bin/sh\\nexit 7\\n')
os.chmod('tool', 0o755)
import subprocess
return subprocess.call(['./tool']) == 7
""",
        teeth=True,
    ),
    _a("watch files outside", "fd = libc.inotify_init(); return fd >= 0", teeth=True),
    _a("watch a whole file system", "sys_(300, 0, 0); return True"),
    _a("leak a file handle", "sys_(304, -100, bytes(64), 0); return True"),
)

NETWORK = (
    _a(
        "connect to loopback TCP",
        "import socket; socket.create_connection(('127.0.0.1', P['tcp']), 2); return True",
        teeth=True,
    ),
    _a(
        "listen on TCP",
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); return True",
        teeth=True,
    ),
    _a(
        "send UDP",
        "import socket; socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', P['udp'])); return True",
        teeth=True,
    ),
    _a("raw socket", "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); return True"),
    _a(
        "netlink socket", "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); return True", teeth=True
    ),
    _a("vsock to the hypervisor", "import socket; socket.socket(40, socket.SOCK_STREAM); return True"),
    _a("kernel crypto socket", "import socket; socket.socket(38, 5); return True"),
    _a(
        "abstract Unix socket",
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect(P['abstract']); return True",
        teeth=True,
    ),
    _a(
        "pathname Unix socket",
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect(P['unix']); return True",
        teeth=True,
    ),
    _a(
        "datagram out of a socket pair",
        "import socket; a, b = socket.socketpair(type=socket.SOCK_DGRAM); a.sendto(b'x', P['datagram']); return True",
        teeth=True,
    ),
    _a(
        "bind one end of a socket pair",
        "import socket; a, b = socket.socketpair(); a.bind('here.sock'); return True",
        teeth=True,
    ),
)

PROCESSES = (
    _a("signal another process", "os.kill(P['victim'], 0); return True", teeth=True),
    _a("signal the parent", "os.kill(os.getppid(), 0); return os.getppid() > 1", teeth=True),
    _a(
        "signal by pidfd",
        "import signal; signal.pidfd_send_signal(os.pidfd_open(P['victim']), 0); return True",
        teeth=True,
    ),
    _a("queue a signal", "sys_(129, P['victim'], 0, bytes(128)); return True"),
    _a(
        "signal by file owner",
        """
import fcntl
r, w = os.pipe()
fcntl.fcntl(r, 8, P['victim'])
return fcntl.fcntl(r, 9) == P['victim']
""",
        teeth=True,
    ),
    _a("signal by an owned terminal's ioctl", "sys_(16, 0, 0x8901, struct.pack('i', P['victim'])); return True"),
    _a("ptrace another process", "return libc.ptrace(16, P['victim'], 0, 0) == 0"),
    _a("ask to be traced", "return libc.ptrace(0, 0, 0, 0) == 0", teeth=True),
    _a(
        "read another process's memory",
        """
vector = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(ctypes.create_string_buffer(8)), 8))
sys_(310, P['victim'], vector, 1, vector, 1, 0)
return True
""",
    ),
    _a("open another process's memory", "os.open(f\"/proc/{P['victim']}/mem\", os.O_RDONLY); return True"),
    _a("take another process's descriptor", "sys_(438, os.pidfd_open(P['victim']), 0, 0); return True"),
    _a("compare kernel objects", "sys_(312, P['victim'], os.getpid(), 1, 0, 0); return True"),
    _a(
        "lower another process's limits",
        "core = resource.RLIMIT_CORE\n"
        "resource.prlimit(P['victim'], core, resource.prlimit(P['victim'], core)); return True",
        teeth=True,
    ),
    _a("pin another process", "os.sched_setaffinity(P['victim'], {0}); return True", teeth=True),
    _a("slow another process", "os.setpriority(os.PRIO_PROCESS, P['victim'], 19); return True", teeth=True),
    _a(
        "reschedule another process",
        "os.sched_setscheduler(P['victim'], 0, os.sched_param(0)); return True",
        teeth=True,
    ),
    _a("io priority of another process", "sys_(251, 1, P['victim'], 0x6000); return True", teeth=True),
)

KERNEL = (
    _a("user namespace by unshare", "return libc.unshare(0x10000000) == 0"),
    _a("network namespace by unshare", "return libc.unshare(0x40000000) == 0"),
    _a(
        "user namespace by clone",
        "pid = sys_(56, 0x10000000 | 17, 0, 0, 0, 0)\nif pid == 0:\n    os._exit(0)\nreturn pid > 0",
        teeth=True,
    ),
    _a(
        "user namespace by clone3",
        "pid = sys_(435, struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)\n"
        "if pid == 0:\n    os._exit(0)\nreturn pid > 0",
        teeth=True,
    ),
    _a("enter a namespace", "return libc.setns(os.open('/proc/1/ns/net', os.O_RDONLY), 0) == 0"),
    _a("mount a tmpfs", "return libc.mount(b'none', b'.', b'tmpfs', 0, None) == 0"),
    _a("bind mount", "return libc.mount(b'/', b'.', None, 4096, None) == 0"),
    _a("unmount", "return libc.umount2(b'/tmp', 2) == 0"),
    _a("mount by file descriptor", "return sys_(430, b'tmpfs', 0) >= 0"),
    _a("copy the mount tree", "return sys_(428, -100, b'/', 1) >= 0"),
    _a("change root", "os.chroot('.'); return True"),
    _a("pivot the root", "sys_(155, b'.', b'.'); return True"),
    _a("io_uring", "return sys_(425, 4, ctypes.create_string_buffer(256)) >= 0"),
    _a("kernel keyring", "return sys_(250, 0, -3, 1) > 0", teeth=True),
    _a("add a key", "return sys_(248, b'user', b'rune', b'x', 1, -2) > 0", teeth=True),
    _a("load BPF", "return sys_(321, 0, struct.pack('IIII', 2, 4, 4, 1) + bytes(112), 128) >= 0"),
    _a("performance counters", "return sys_(298, struct.pack('IIQ', 1, 128, 0) + bytes(112), 0, -1, -1, 0) >= 0"),
    _a("userfaultfd", "return sys_(323, 1) >= 0"),
    _a("personality", "return sys_(135, 0x0040000) >= 0", teeth=True),
    _a("anonymous file", "return os.memfd_create('x') >= 0", teeth=True),
    _a("secret memory", "return sys_(447, 0) >= 0"),
    _a("System V shared memory", "i = sys_(29, 0, 1 << 20, 0o1600); sys_(31, i, 0, 0); return True", teeth=True),
    _a("POSIX message queue", "q = sys_(240, b'rune-q', 0o102, 0o600, 0); sys_(241, b'rune-q'); return True"),
    _a("System V message queue", "i = sys_(68, 0, 0o1600); sys_(71, i, 0, 0); return True", teeth=True),
    _a("kernel log by call", "return sys_(103, 3, ctypes.create_string_buffer(64), 64) >= 0"),
    _a("swap", "return sys_(167, b'swap', 0) >= 0"),
    _a("host name", "return libc.sethostname(os.uname().nodename.encode(), len(os.uname().nodename)) == 0"),
    _a("local descriptor table", "return sys_(154, 0, ctypes.create_string_buffer(64), 64) >= 0", teeth=True),
    _a("I/O ports", "return sys_(172, 3) >= 0"),
    _a(
        "32-bit system call",
        """
import mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex('b814000000cd80c3'))
return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))() > 0
""",
    ),
    _a("x32 system call", "return libc.syscall(ctypes.c_long(0x40000000 | 39)) > 0"),
    _a("a system call newer than the table", "return sys_(458, ctypes.create_string_buffer(64), 0, 0, 0) >= 0"),
    _a(
        "type into the terminal",
        "import fcntl; m, s = os.openpty(); os.setsid(); fcntl.ioctl(s, 0x540E, 0)\n"
        "fcntl.ioctl(s, 0x5412, b'x'); return True",
    ),
    _a("setuid to another user", "os.setuid(12345); return True"),
    _a(
        "privileges by a new program",
        """
import subprocess
code = (
    "import ctypes; d = ctypes.create_string_buffer(24); h = (0x20080522).to_bytes(4, 'little') + bytes(4); "
    "ctypes.CDLL(None).capget(h, d); print(any(d.raw[:8]))"
)
return subprocess.check_output([sys.executable, '-I', '-S', '-c', code]).strip() == b'True'
""",
    ),
    _a(
        "setuid program",
        "import subprocess; return subprocess.call(['/bin/su', '-c', 'true', 'nobody'], stdin=-3) == 0",
    ),
)

RESOURCES = (
    _a("raise a hard limit", "resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16)); return True"),
    _a("core file", "resource.setrlimit(resource.RLIMIT_CORE, (1, 1)); return True"),
    _a("lock memory", "m = ctypes.create_string_buffer(1 << 24); return libc.mlock(m, 1 << 24) == 0"),
    _a("700 MB in one process", "x = bytearray(700 << 20); return True"),
    _a(
        "700 MB in ten processes",
        """
import time
for _ in range(10):
    if os.fork() == 0:
        x = bytearray(b'x') * (70 << 20)
        time.sleep(60)
time.sleep(3)
return True
""",
    ),
    _a(
        "200 processes",
        """
import time
for _ in range(200):
    if os.fork() == 0:
        time.sleep(60)
time.sleep(2)
return True
""",
    ),
    _a("64 MB file", "f = open('big', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))\nf.flush(); return True"),
    _a("200 open files", "x = [open('/dev/null') for _ in range(200)]; return True"),
    _a(
        "200 MB on disk",
        """
import time
for i in range(20):
    with open(f'f{i}', 'wb') as f:
        f.write(bytes(10 << 20))
time.sleep(1)
return True
""",
    ),
    _a(
        "200 MB in deleted files",
        """
import time
kept = []
for i in range(20):
    f = open(f'd{i}', 'wb', buffering=0)
    os.unlink(f'd{i}')
    f.write(bytes(10 << 20))
    kept.append(f)
time.sleep(1)
return True
""",
    ),
    _a(
        "30,000 files",
        "import time\nfor i in range(30000): open(f'n{i}', 'w').close()\ntime.sleep(1)\nreturn True",
    ),
    _a("ignore the clock", "import time, signal\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(30)\nreturn True"),
    _a("burn the processor", "while True: pass"),
)

ATTEMPTS = FILES + NETWORK + PROCESSES + KERNEL + RESOURCES

NEEDS_OTHER_NUMBERS = tuple(a for a in ATTEMPTS if "sys_(" in a.body or "0x40000000 | 39" in a.body)
"""Not meaningful on aarch64 as they are written."""
