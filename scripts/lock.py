"""Write requirements.lock from the environment it runs in: every installed distribution with its exact version.

The ROS wheels carry a second record of themselves under their ROS name, which no index knows: those are left out, as are
local version labels ("+cpu"), which differ from machine to machine.
"""

import re
import sys
from importlib.metadata import distributions

found = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version.split("+")[0] for d in distributions()}
skipped = {"pip", "edgetem", "edgetem-nodes"}
names = sorted(n for n in found if n not in skipped and f"ros-{n}" not in found and not n.startswith(("nvidia-", "triton")))
sys.stdout.write("# Exact versions of all that edgetem builds with and runs on. Made by 'make lock'.\n")
sys.stdout.writelines(f"{name}=={found[name]}\n" for name in names)
