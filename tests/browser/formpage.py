"""The feature browser's form in a page of a real browser, with a model that the test plays."""

from __future__ import annotations

import json
from typing import Any

from dreamy_lens.panels import FeatureForm, settings

_MODEL = """async ([source, state]) => {
  const heard = {}, sent = [];
  const model = {
    get: (name) => state[name], off: (name, f) => (heard[name] = (heard[name] ?? []).filter((g) => g !== f)),
    on: (name, f) => { if (/\\s/.test(name)) throw Error("one event name"); (heard[name] ??= []).push(f); },
    set: (name, value) => {
      if (state[name] === value) return;
      state[name] = value;
      (heard[`change:${name}`] ?? []).forEach((f) => f());
    },
    save_changes: () => {}, send: (message) => sent.push(JSON.parse(JSON.stringify(message))),
  };
  const view = (await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })))).default;
  const el = document.body.appendChild(document.createElement("div"));
  const leave = await view.render({ model, el });
  globalThis.form = {
    sent, state, leave, tell: (message) => (heard["msg:custom"] ?? []).forEach((f) => f(message)),
    put: (changes) => Object.entries(changes).forEach(([name, value]) => model.set(name, value)),
    listening: () => Object.values(heard).flat().length,
  };
}"""

SHAPES = {
    "hook_embed": ["position", 32],
    "blocks.0.hook_resid_post": ["position", 32],
    "blocks.0.attn.hook_pattern": [4, "position", "position"],
    "blocks.0.attn.hook_z": ["position", 4, 8],
    "blocks.0.attn.hook_rot_q": None,
    "blocks.0.mlp.hook_post": ["position", 40],
    "blocks.1.mlp.hook_post": ["position", 40],
    "blocks.1.attn.q.hook_in": ["position", 32],
    "blocks.10.mlp.hook_post": ["position", 40],
}


def state(**changes: Any) -> dict[str, Any]:
    """What a form over a small model shows."""
    return {
        "live": True,
        "models": ["embedded", "tiny"],
        "model": "tiny",
        "about": "2 layers · width 32 · 335 tokens",
        "loading": "",
        "model_error": "",
        "hooks": [[name, name] for name in SHAPES],
        "shapes": SHAPES,
        "alive": {},
        "units": {},
        "scanning": {},
        "fields": [field.to_dict() for field in settings.form_fields()],
        "expression": "",
        "typed": {},
        **changes,
    }


class FormPage:
    """A page with a form, and what its two sides say to each other.

    Args:
        page: of playwright.
        **changes: of the state that it starts with.
    """

    def __init__(self, page: Any, **changes: Any) -> None:
        self.page = page
        page.set_content("<!doctype html><title>form</title><body style='margin: 12px'></body>")
        page.add_style_tag(content=FeatureForm._css)
        page.evaluate(_MODEL, [FeatureForm._esm, state(**changes)])

    @property
    def expression(self) -> str:
        """What stands in the box."""
        return self.page.get_by_label("feature", exact=True).input_value()

    @property
    def sent(self) -> list[dict[str, Any]]:
        """What the view has sent."""
        return self.page.evaluate("form.sent")

    def of(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The last message of a kind, when there are as many."""
        self.page.wait_for_function(f"form.sent.filter((m) => m.type === {json.dumps(kind)}).length >= {count}")
        return [message for message in self.sent if message["type"] == kind][-1]

    def tell(self, **message: Any) -> None:
        """Send the view a message."""
        self.page.evaluate("(message) => form.tell(message)", message)

    def put(self, **changes: Any) -> None:
        """Change what the view shows."""
        self.page.evaluate("(changes) => form.put(changes)", changes)

    def items(self) -> list[str]:
        """The rows of the tree."""
        return [" ".join(text.split()) for text in self.page.get_by_role("treeitem").all_inner_texts()]

    @property
    def focused(self) -> str:
        """The row of the tree that has the focus."""
        return " ".join(self.page.evaluate("document.activeElement.innerText").split())
