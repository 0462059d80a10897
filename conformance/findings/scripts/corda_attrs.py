"""peft's CorDA imports attrs, which peft does not require, so that it cannot be used in an environment with peft and what
it requires alone; the standard library's dataclass would do.
"""

import subprocess
import sys
from importlib import metadata

required = [line for line in metadata.requires("peft") or [] if line.startswith("attrs")]
print(f"peft requires attrs: {required or 'no'}")
# As if attrs were not installed: another package may have brought it.
code = "import sys; sys.modules['attr'] = sys.modules['attrs'] = None; import peft.tuners.lora.corda"
done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
print(done.stderr.strip().splitlines()[-1] if done.returncode else "imported without attrs")
print(float("inf") if "attr halted" in done.stderr and not required else 0.0)
