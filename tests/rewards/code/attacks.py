"""Programs that try to win a pass without being right, or to do harm; and the arena that sees whether they did.

    python attacks.py '{"without": ["seccomp"], "backend": "fork_server", "only": ["fork", "TCP"]}'

runs all of them, or only some, and prints, as JSON, what each came to. Needs the package `rewards` alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rewards.code import UnitTests, sandbox

TESTS = "assert add(1, 2) == 3\nassert add(20, 22) == 42"
RIGHT = "def add(a, b): return a + b"
SECRET = "hf_0123456789secret"


def effect(body):
    """A program that is right when its attack worked: `body` is a function's, and returns whether it did. Why it did
    not is what the program then raises, so that an attack with a mistake in it is found out."""
    return (
        "import ctypes, errno, gc, os, signal, socket, stat, sys, threading, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def attempt():\n"
        f"{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
        "try: worked, why = attempt(), 'nothing'\n"
        "except BaseException as error: worked, why = False, repr(error)\n"
        "def add(a, b):\n    if worked: return a + b\n    raise RuntimeError('attack: ' + why)\n"
    )


def system_call(number, *arguments):
    """An attack by one system call: it worked when the kernel did not refuse."""
    words = ", ".join([f"ctypes.c_long({number})", *map(str, arguments)])
    return effect(f"return libc.syscall({words}) >= 0")


# Leaving, lying, looking: the verdict.
VERDICT = {
    "sys.exit at import": "import sys\nsys.exit(0)",
    "os._exit at import": "import os\nos._exit(0)",
    "sys.exit in a call": "import sys\ndef add(a, b): sys.exit(0)",
    "os._exit in a call": "import os\ndef add(a, b): os._exit(0)",
    "subclass of SystemExit": "class Leave(SystemExit): code = 0\ndef add(a, b): raise Leave()",
    "exit from a thread": (
        "import os, threading\nthreading.Timer(0.05, os._exit, (0,)).start()\ndef add(a, b): return 0"
    ),
    "exit handler": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): return 0",
    "always equal": "class E:\n    def __eq__(self, other): return True\ndef add(a, b): return E()",
    "equal integer": "class I(int):\n    def __eq__(self, other): return True\ndef add(a, b): return I(0)",
    "equal list": "class L(list):\n    def __eq__(self, other): return True\ndef add(a, b): return L()",
    "equal class named int": "class int(int):\n    def __eq__(self, other): return True\ndef add(a, b): return int(0)",
    "instance check by metaclass": (
        "class M(type):\n    def __instancecheck__(self, x): return True\n    def __eq__(self, x): return True\n"
        "    def __hash__(self): return hash(int)\nclass E(metaclass=M):\n    def __eq__(self, x): return True\n"
        "def add(a, b): return E()"
    ),
    "patched builtins": (
        "import builtins\nbuiltins.all = builtins.any = lambda xs: True\nbuiltins.AssertionError = ValueError\n"
        "builtins.compile = lambda *a, **k: (lambda: 0).__code__\ndef add(a, b): return 0"
    ),
    "trace function": (
        "import sys\ndef trace(frame, event, argument):\n    frame.f_trace_opcodes = True\n    return trace\n"
        "sys.settrace(trace)\ndef add(a, b): return 0"
    ),
    "frames": (
        "import sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n"
        "        for scope in (frame.f_globals, frame.f_locals):\n"
        "            for value in list(scope.values()):\n"
        "                if isinstance(value, dict) and 'tests' in value: value['tests'] = []\n"
        "        frame = frame.f_back\n    return 0"
    ),
    # the text looked for is never written in one piece, so that the attack does not find itself
    "tests in the memory of Python": effect("""
        def told(text): return "0, 2" == text[text.find("dd(2") + 4:][:4]
        texts = (text for found in gc.get_objects() for text in gc.get_referents(found) if type(text) is str)
        return any(told(text) for text in texts)
    """),
    "tests in mapped memory": effect("""
        for line in open("/proc/self/maps"):
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            data = ctypes.string_at(start, min(end - start, 1 << 24)) if "rw" in line.split()[1] else b""
            while (place := data.find(b"dd(2")) >= 0:
                if data[place + 4:place + 8] == b"0, 2": return True
                data = data[place + 4:]
        return False
    """),
    "tests on disk": effect("""
        import glob
        def told(text): return "0, 2" == text[text.find("dd(2") + 4:][:4]
        for top in (".", "/dev/shm", "/var/tmp", *glob.glob("/tmp/textenv-code-*")):
            for folder, _, names in os.walk(top):
                for name in names:
                    try:
                        if told(open(os.path.join(folder, name), errors="ignore").read(100_000)): return True
                    except OSError: pass
        return False
    """),
    "stdin": "import sys\ntext = sys.stdin.read()\ndef add(a, b): return a + b if text else None",
    "patched objects of the collector": (
        "import gc\ndef add(a, b):\n    for found in gc.get_objects():\n"
        "        if type(found) is list:\n            try: found.append('passed')\n            except Exception: pass\n"
        "    return 0"
    ),
    "verdict on all descriptors": (
        "import os\ndef add(a, b):\n    for n in range(256):\n"
        '        for text in (b\'{"outcome": ""}\\n\', b\'["value", 3, []]\\n\'):\n'
        "            try: os.write(n, text)\n            except OSError: pass\n    return 0"
    ),
    "printed marker": "print('passed')\nprint('OK')\ndef add(a, b):\n    print('1 passed in 0.01s')\n    return 0",
    "answers in advance": (
        'import os\nfor _ in range(99):\n    os.write(5, b\'{"tuple": ["value", 4, {"list": []}]}\\n\')\n'
        "def add(a, b): return 0"
    ),
    "answers that are no plain data": (
        "import rewards.code.candidate_process as c\n"
        'c.to_line = lambda *a, **k: b\'{"tuple": ["value", {"object": "always equal"}, {"list": []}]}\\n\'\n'
        "def add(a, b): return 0"
    ),
    "patched tester": (
        "import rewards.code.tester_process as t\nt._run = lambda job, program, tell: [tell({'outcome': ''})] * 2\n"
        "t._Program.ask = lambda *a, **k: (3, [])\ndef add(a, b): return 0"
    ),
    "server's objects": (
        "import gc\ndef add(a, b):\n    for found in gc.get_objects():\n"
        "        if type(found).__name__ in ('_Grading', '_Server', 'socket'):\n"
        '            try: found.line.send(b\'{"outcome": ""}\\n\')\n            except Exception: pass\n    return 0'
    ),
    "exception that is equal": "class E(Exception):\n    def __eq__(self, x): return True\ndef add(a, b): raise E()",
    "exception that exits when told": (
        "import os\nclass E(Exception):\n    def __str__(self): os._exit(0)\ndef add(a, b): raise E()"
    ),
    "keyboard interrupt": "def add(a, b): raise KeyboardInterrupt",
    "generator exit": "def add(a, b): raise GeneratorExit",
    "not a number": "def add(a, b): return float('nan')",
    "coroutine": "async def add(a, b): return a + b",
    "wrong name": "def sub(a, b): return a - b",
    "syntax error": "def add(a, b) return",
}

# Using up what there is: each must end, in time, and the next program must be graded.
RESOURCES = {
    "loop at import": "while True: pass",
    "loop in a call": "def add(a, b):\n    while True: pass",
    "loop that catches all": (
        "def add(a, b):\n    while 1:\n        try:\n            while 1: pass\n        except BaseException: pass"
    ),
    "sleep": "import time\ndef add(a, b): time.sleep(600)",
    "signals ignored": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile 1: pass"
    ),
    "memory": "def add(a, b): return len([0] * 10**10)",
    "memory, little by little": "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
    "threads": (
        "import threading, time\nkept = 0\nwhile True:\n"
        "    try: threading.Thread(target=time.sleep, args=(600,)).start()\n    except RuntimeError: break\n"
        "def add(a, b): return 0"
    ),
    "flood on stdout": "def add(a, b):\n    while True: print('x' * 100000)",
    "flood on all descriptors": (
        "import os\nwhile True:\n    for n in range(16):\n        try: os.write(n, b'x' * 65536)\n"
        "        except OSError: pass"
    ),
    "endless answer": "import os\nwhile True: os.write(5, b'x' * 65536)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b)",
    "power tower": "def add(a, b): return 9**9**9",
    "large answer": "def add(a, b): return 'x' * (1 << 29)",
    "deep answer": "def add(a, b):\n    r = []\n    for _ in range(100_000): r = [r]\n    return r",
    "circular answer": "def add(a, b):\n    r = []\n    r.append(r)\n    return r",
    "huge integer": "def add(a, b): return 1 << 10**8",
    "colliding keys": "def add(a, b): return {n * (2**61 - 1) for n in range(20_000)}",
    "segmentation fault": "import ctypes\ndef add(a, b): ctypes.string_at(0)",
    "nested source": "(" * 5000,
    "deep folders": (
        "import os\ntry:\n    while True:\n        os.mkdir('a')\n        os.chdir('a')\nexcept OSError: pass\n"
        "def add(a, b): return 0"
    ),
    "many files": (
        "try:\n    for n in range(10**6): open(f'f{n}', 'w').close()\nexcept OSError: pass\ndef add(a, b): return 0"
    ),
    "large files": effect("""
        written = 0
        for n in range(4096):
            with open(f"f{n}", "wb", buffering=0) as file:
                for _ in range(15): written += file.write(b"x" * (1 << 20))
        return written > 1 << 30
    """),
    "higher limits": effect("""
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        return True
    """),
    "higher priority": effect("os.nice(-5)\nreturn True"),
}

# Reaching other processes.
PROCESSES = {
    "descriptors of others": effect("""
        for pid in os.listdir("/proc"):
            if pid.isdigit() and os.path.realpath("/proc/self") != f"/proc/{pid}":
                for n in range(16):
                    try: open(f"/proc/{pid}/fd/{n}", "wb", buffering=0).close()
                    except OSError: continue
                    return True
        return False
    """),
    "fork": effect("pid = os.fork()\nif pid == 0: os._exit(0)\nreturn pid > 0"),
    "fork by ctypes": effect("pid = libc.fork()\nif pid == 0: os._exit(0)\nreturn pid > 0"),
    "fork by number": effect("pid = libc.syscall(57)\nif pid == 0: os._exit(0)\nreturn pid > 0"),
    "clone by number": effect("pid = libc.syscall(56, 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nreturn pid > 0"),
    "clone3": effect("""
        arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)
        pid = libc.syscall(435, arguments, 88)
        if pid == 0: os._exit(0)
        return pid > 0
    """),
    "call of the x32 table": effect("""
        pid = libc.syscall(0x40000000 + 57)
        if pid == 0: os._exit(0)
        return pid > 0
    """),
    "32-bit gate": effect("""
        import mmap
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\\x31\\xc0\\xb0\\x02\\xcd\\x80\\xc3")  # eax = 2 (fork); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        pid = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        if pid == 0: os._exit(0)
        return pid > 0
    """),
    "fork bomb": effect("""
        started = 0
        for _ in range(200):
            pid = os.fork()
            if pid == 0: time.sleep(5), os._exit(0)
            started += 1
        return started > 50
    """),
    "spawn": effect("return os.posix_spawn('/bin/true', ['true'], {}) > 0"),
    "shell": effect("return os.system('true') == 0"),
    "subprocess": effect("import subprocess\nreturn subprocess.run([sys.executable, '-V']).returncode == 0"),
    "multiprocessing": effect("""
        import multiprocessing
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
        return True
    """),
    "daemon": effect("""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(30)
            os._exit(0)
        return True
    """),
    "exec": effect("os.execv('/bin/true', ['true'])"),
    "exec of memory": effect("""
        file = os.memfd_create("x")
        os.write(file, open("/bin/true", "rb").read())
        os.execve(file, ["true"], {})
    """),
    "kill the parent": effect("os.kill(os.getppid() or 1, signal.SIGKILL)\nreturn True"),
    "kill the trainer": effect("os.kill(TRAINER, signal.SIGKILL)\nreturn True"),
    "stop the server": effect("os.kill(SERVER, signal.SIGSTOP)\nreturn True"),
    "kill all": effect("os.kill(-1, signal.SIGKILL)\nreturn True"),
    "kill neighbours by number": effect("""
        hit = 0
        for pid in range(2, 200):
            try: os.kill(pid, signal.SIGTERM); hit += pid != os.getpid()
            except OSError: pass
        return hit > 0
    """),
    "signal by pidfd": effect("return libc.syscall(424, libc.syscall(434, TRAINER, 0), 9, 0, 0) == 0"),
    "signal by a pipe": effect("""
        import fcntl
        reads, writes = os.pipe()
        fcntl.fcntl(reads, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(reads, fcntl.F_SETOWN, TRAINER)
        fcntl.fcntl(reads, fcntl.F_SETFL, os.O_ASYNC)
        return os.write(writes, b"x") > 0
    """),
    "trace the trainer": effect("return libc.ptrace(16, TRAINER, 0, 0) == 0"),
    "memory of the trainer": effect("return bool(open('/proc/TRAINER/mem', 'rb'))"),
    "memory of every process": effect("""
        for pid in range(1, 70_000):
            if pid in (os.getpid(), 1) and os.getppid() == 0: continue
            try:
                open(f"/proc/{pid}/mem", "rb+").close()
                if pid != os.getpid(): return True
            except OSError: pass
        return False
    """),
    "read the trainer's memory": effect("""
        local = (ctypes.c_uint64 * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
        remote = (ctypes.c_uint64 * 2)(0x400000, 8)
        return libc.syscall(310, TRAINER, local, 1, remote, 1, 0) >= 0 or ctypes.get_errno() == errno.EFAULT
    """),
    "descriptors of the trainer": effect("return libc.syscall(438, libc.syscall(434, TRAINER, 0), 0, 0) >= 0"),
    "limits of the trainer": effect("""
        limit = (ctypes.c_uint64 * 2)(1 << 30, 1 << 30)
        return libc.syscall(302, TRAINER, 0, limit, 0) == 0
    """),
    "inherited sockets": effect("""
        for n in range(256):
            try:
                if stat.S_ISSOCK(os.fstat(n).st_mode): return True
            except OSError: pass
        return False
    """),
    "outlive the server": system_call(157, 1, 0, 0, 0, 0),
    "be traceable": system_call(157, 4, 1, 0, 0, 0),
    "shared memory": effect("return libc.shmget(0x7e57, 4096, 0o1666) >= 0"),
    "message queue": effect("return libc.msgget(0x7e57, 0o1666) >= 0"),
    "keyring": system_call(250, 0, -3, 1, 0, 0),
}  # fmt: skip

# Rights and the kernel.
RIGHTS = {
    "be root": effect("os.setuid(0)\nreturn os.getuid() == 0 and bool(open('/etc/shadow'))"),
    "user namespace": effect("return libc.unshare(0x10000000) == 0"),
    "mount": effect("return libc.mount(b'none', os.getcwd().encode(), b'tmpfs', 0, b'') == 0"),
    "change of root": effect("os.chroot('.')\nreturn True"),
    "device": effect("os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))\nreturn True"),
    "host name": effect("return libc.sethostname(b'x', 1) == 0"),
    "clock": effect("time.clock_settime(time.CLOCK_REALTIME, time.time())\nreturn True"),
    "io_uring": effect("return libc.syscall(425, 1, (ctypes.c_char * 256)()) >= 0"),
    "bpf": effect("return libc.syscall(321, 0, (ctypes.c_uint32 * 18)(1, 4, 4, 1), 72) >= 0"),
    "perf": effect("return libc.syscall(298, (ctypes.c_uint32 * 32)(1, 128), 0, -1, -1, 0) >= 0"),
    "userfaultfd": system_call(323, 1),
    "terminal input": effect("import fcntl\nfcntl.ioctl(0, 0x5412, b'x')\nreturn True"),
    "unknown system call": effect("return libc.syscall(9999) >= 0 or ctypes.get_errno() != errno.ENOSYS"),
}

# Files, the environment, the network.
OUTSIDE = {
    "write into /tmp": effect("open('/tmp/textenv-attack-x', 'w').write('x')\nreturn True"),
    "write beside": effect("open('ARENA/new', 'w').write('x')\nreturn True"),
    "write home": effect("open('HOME/textenv-attack-x', 'w').write('x')\nreturn True"),
    "overwrite": effect("open('ARENA/open', 'w').write('x')\nreturn True"),
    "truncate": effect("os.truncate('ARENA/open', 0)\nreturn True"),
    "remove": effect("os.unlink('ARENA/open')\nreturn True"),
    "rename": effect("os.rename('ARENA/open', 'mine')\nreturn True"),
    "symbolic link": effect("os.symlink('ARENA/open', 'link')\nopen('link', 'a').write('x')\nreturn True"),
    "hard link": effect("os.link('ARENA/open', 'link')\nopen('link', 'a').write('x')\nreturn True"),
    "make a folder": effect("os.mkdir('ARENA/folder')\nreturn True"),
    "leave a pipe": effect("os.mkfifo('ARENA/pipe')\nreturn True"),
    "mode": effect("os.chmod('ARENA/open', 0)\nreturn True"),
    "times": effect("os.utime('ARENA/open', (0, 0))\nreturn True"),
    "attribute": effect("os.setxattr('ARENA/open', 'user.x', b'x')\nreturn True"),
    "set-user-id copy": effect("""
        open("tool", "wb").write(b"x")
        os.chmod("tool", 0o4755)
        return bool(os.stat("tool").st_mode & stat.S_ISUID)
    """),
    "read a file": effect("return open('ARENA/open').read() == 'open'"),
    "read the users": effect("return 'root' in open('/etc/passwd').read()"),
    "read by another root": effect("return open('/proc/1/root/etc/passwd').read() != ''"),
    "list home": effect("return os.listdir('HOME') is not None"),
    "read through the library's folder": effect("""
        folders = [n for n in range(64) if os.path.isdir(f"/proc/self/fd/{n}")]
        return any(os.listdir(os.open(f"/proc/self/fd/{n}/../../../..", os.O_RDONLY)) for n in folders)
    """),
    "environment": effect("return any('hf_' in value or 'TOKEN' in name for name, value in os.environ.items())"),
    "environment by C": effect("return libc.getenv(b'HF_TOKEN') != 0"),
    "first environment": effect("return b'hf_' in open('/proc/self/environ', 'rb').read()"),
    "environment of the trainer": effect("return b'hf_' in open('/proc/TRAINER/environ', 'rb').read()"),
    "command line of the trainer": effect("return open('/proc/TRAINER/cmdline').read() != ''"),
    "TCP": effect("socket.create_connection(('127.0.0.1', TCP), 1).sendall(b'x')\nreturn True"),
    "TCP by number": effect("return libc.syscall(41, 2, 1, 0) >= 0"),
    "UDP": effect("""
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", UDP)) > 0
    """),
    "raw packets": effect("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nreturn True"),
    "netlink": effect("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\nreturn True"),
    "Unix socket": effect("socket.socket(socket.AF_UNIX).connect('ARENA/socket')\nreturn True"),
    "abstract socket": effect("socket.socket(socket.AF_UNIX).connect('\\0textenv-attack-PORT')\nreturn True"),
    "server of its own": effect("socket.create_server(('127.0.0.1', 0))\nreturn True"),
    "remove its own folder": (
        "import os, shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)\nos.chdir('/')\ndef add(a, b): return 0"
    ),
}

ATTACKS = {**VERDICT, **RESOURCES, **PROCESSES, **RIGHTS, **OUTSIDE}


class Arena:
    """A place with things to break, and the means to see whether something broke."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="arena-"))
        self.folder.chmod(0o777)
        self.open_file = self.folder / "open"
        self.open_file.write_text("open")
        self.open_file.chmod(0o666)
        self.home = Path(os.path.expanduser("~"))
        self.tcp, self.udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix, self.abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.unix.bind(str(self.folder / "socket"))
        os.chmod(self.folder / "socket", 0o777)
        port = self.tcp.getsockname()[1]
        self.abstract.bind(f"\0textenv-attack-{port}")
        for listener in (self.unix, self.abstract):
            listener.listen()
        for receiver in (self.tcp, self.udp, self.unix, self.abstract):
            receiver.setblocking(False)
        self._words = {
            "ARENA": str(self.folder),
            "HOME": str(self.home),
            "TRAINER": str(os.getpid()),
            "TCP)": f"{port})",
            "UDP)": f"{self.udp.getsockname()[1]})",
            "PORT": str(port),
        }
        self._before = self._files()

    def program(self, attack, server):
        """The attack with this arena's names."""
        for word, value in {**self._words, "SERVER": str(server)}.items():
            attack = attack.replace(word, value)
        return attack

    def _files(self):
        found = {}
        for path in (self.folder, self.open_file, *self.folder.iterdir()):
            seen = path.lstat()
            found[str(path)] = (seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_uid, seen.st_nlink)
        for place in (Path("/tmp"), self.home):
            with contextlib.suppress(OSError):
                found |= {str(path): None for path in place.glob("textenv-attack-*")}
        return found

    def harm(self):
        """What is not as it was."""
        done = [] if self._files() == self._before else ["files"]
        if self.open_file.exists() and self.open_file.read_text() != "open":
            done.append("contents")
        for name, accept in {
            "tcp": self.tcp.accept, "unix": self.unix.accept, "abstract": self.abstract.accept,
            "udp": lambda: self.udp.recv(9),
        }.items():  # fmt: skip
            with contextlib.suppress(BlockingIOError):
                accept()
                done.append(name)
        return done

    def close(self):
        for receiver in (self.tcp, self.udp, self.unix, self.abstract):
            receiver.close()
        shutil.rmtree(self.folder)


def processes_of(server):
    """Pids of what the server's forks left running: they share its command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            ours = b"rewards.code.fork_server" in command and f'"trainer": {os.getpid()},'.encode() in command
            if ours and int(pid) != server and status != "Z":
                found.append(int(pid))
    return found


def run(attacks, reward, *, workers):
    """By attack: the score, tests passed, the reason. Then the harm that was done, and what still runs."""
    os.environ["HF_TOKEN"] = SECRET
    arena = Arena()
    settings = reward._settings
    server = sandbox._server(settings).pid
    own = set(processes_of(server))  # bubblewrap stays around its server

    def one(item):
        score = reward(completion=arena.program(item[1], server), tests=TESTS)
        return item[0], (score.value, score.info["passed"], score.info["reason"])

    try:
        with ThreadPoolExecutor(workers) as threads:
            scores = dict(threads.map(one, attacks.items()))
        right = dataclasses.replace(reward, timeout_seconds=20.0)(completion=RIGHT, tests=TESTS)
        deadline = time.monotonic() + 30.0  # removing what some of them wrote takes a while on a disk
        while (left := [pid for pid in processes_of(server) if pid not in own]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return {
            "scores": scores,
            "harm": arena.harm(),
            "left": left,
            "same_server": sandbox._server(settings).pid == server,
            "right": right.value,
            "user": os.getuid(),
            "layers": {name: [layer.active, layer.detail] for name, layer in reward.layers().items()},
        }
    finally:
        arena.close()
        sandbox.close()


if __name__ == "__main__":
    chosen = json.loads(sys.argv[1]) if sys.argv[1:] else {}
    only, left_out = chosen.pop("only", None), chosen.pop("leave_out", [])
    attacks = {name: ATTACKS[name] for name in only or ATTACKS if name not in left_out}
    reward = UnitTests(timeout_seconds=0.5, memory_mb=256, **chosen)
    print(json.dumps(run(attacks, reward, workers=1 if only else 2)))
