"""What these tests borrow from other rooms: a run that is small enough."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "training"))
