"""Import this before the files of the example of PushT, which lie side by side as a user's do."""

import sys

import pytest
from pages import ROOT

PUSHT = ROOT / "examples" / "pusht"

pytest.importorskip("gym_pusht", reason="needs worldcompass[pusht] and pip install --no-deps gym-pusht")
if str(PUSHT) not in sys.path:
    sys.path.append(str(PUSHT))
