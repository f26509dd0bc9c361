"""What a run leaves out for speed is said at its end."""

import os

CAMPAIGN = os.environ.get("POSTERN_CAMPAIGN") == "1"
_said = []


def shortened(what, quick, whole):
    """WHOLE in a campaign, else QUICK, which is then listed."""
    if CAMPAIGN:
        return whole
    line = "%s: %s instead of %s" % (what, quick, whole)
    if line not in _said:
        _said.append(line)
    return quick


def said():
    return list(_said)
