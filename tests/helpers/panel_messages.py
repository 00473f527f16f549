"""What panels send to their views."""

from __future__ import annotations

import json


class Heard:
    """What a panel sends to its view."""

    def __init__(self, panel, monkeypatch):
        self.said = []
        monkeypatch.setattr(panel, "send", lambda content, buffers=None: self.said.append(content))
        panel._handler._send = panel.send

    def answers(self, number):
        return [one for one in self.said if one.get("id") == number]


def plain(value) -> bool:
    """Whether a browser's JSON has it, NaN and infinities included in what it has not."""
    return json.loads(json.dumps(value, allow_nan=False)) == value
