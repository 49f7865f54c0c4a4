"""Says hello, and nothing more; notes its process for the test."""

import os
import time
from pathlib import Path

from forecaster import hello

Path(__file__).with_name("process").write_text(str(os.getpid()))
hello.hello()
time.sleep(3600)
