"""The small project in `blobs/` can be imported here, and by the processes that tests start."""

import os
import sys
from pathlib import Path

BLOBS = str(Path(__file__).parent / "blobs")
sys.path.insert(0, BLOBS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [BLOBS, os.environ.get("PYTHONPATH")]))
