"""A wall clock for one process: tests/lib/clockshift.c, preloaded."""

import os
import struct
import subprocess

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "..", "..", "lib", "clockshift.c")


class Clock:
    def __init__(self, folder):
        folder = str(folder)
        self.library = os.path.join(folder, "clockshift.so")
        self.offset = os.path.join(folder, "offset")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", self.library,
                        SOURCE, "-ldl"], check=True)
        while folder != "/":        # whoever Postern becomes must get there
            os.chmod(folder, os.stat(folder).st_mode | 0o055)
            folder = os.path.dirname(folder)
            if folder in ("/tmp", "/"):
                break
        self.set(0)

    def set(self, seconds):
        """Written in place: the process has the file mapped."""
        fd = os.open(self.offset, os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(fd, struct.pack("=q", seconds))
        os.close(fd)

    def env(self):
        return {"LD_PRELOAD": self.library, "CLOCKSHIFT": self.offset}
