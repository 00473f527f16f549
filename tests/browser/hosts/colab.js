// What Colab does around the outputs of cells, in small: a frame of its own origin for each cell, and comms of widgets.
// The interface of the manager is that of src/api.ts in googlecolab/colab-cdn-widget-manager.

import { connect, filled, isWidget, notebook } from "./notebook.js";

const SANDBOX = "allow-downloads allow-forms allow-modals allow-pointer-lock allow-popups allow-same-origin allow-scripts";
const given = new URLSearchParams(location.search);
const kernel = await connect(given.get("kernel"));
const models = new Map(), frames = [], sent = new Map();
let theme = given.get("theme");

const tell = (kind, value) => { for (const frame of frames) frame.post(kind, value); };

kernel.hear((message) => {
  const { header: { msg_type }, parent_header, content, buffers } = message;
  const id = content.comm_id;
  if (msg_type === "comm_open" && isWidget(message)) {
    const state = filled(message);
    models.set(id, {
      modelName: state._model_name, modelModule: state._model_module, modelModuleVersion: state._model_module_version, state,
    });
    tell("opened", { id, data: content.data, buffers });
  }
  if (msg_type === "comm_msg" && models.has(id)) {
    const data = structuredClone(content.data);
    if (["update", "echo_update"].includes(data.method)) Object.assign(models.get(id).state, filled(message));
    tell("message", { id, data, buffers });
  }
  if (msg_type === "comm_close" && models.delete(id)) tell("closed", { id });
  if (msg_type === "status" && content.execution_state === "idle") {
    sent.get(parent_header.msg_id)?.();
    sent.delete(parent_header.msg_id);
  }
});

function frameOf(cell) {
  const place = document.body.appendChild(Object.assign(document.createElement("div"), { id: `cell-${cell}` }));
  const element = place.appendChild(document.createElement("iframe"));
  const origin = `https://cell${cell}.colab.test`, waiting = [];
  let ready = false;
  const now = (kind, value) => element.contentWindow.postMessage({ kind, ...value }, origin);
  const post = (kind, value) => (ready ? now(kind, value) : waiting.push([kind, value]));
  addEventListener("message", async ({ data, source }) => {
    if (source !== element.contentWindow) return;
    if (data.kind === "started") {
      ready = true;
      now("theme", { name: theme });
      for (const [kind, value] of waiting.splice(0)) now(kind, value);
    }
    if (data.kind === "height") element.style.height = `${data.height}px`;
    if (data.kind === "model") now("model", { id: data.id, model: models.get(data.id) });
    if (data.kind === "send") {
      const id = crypto.randomUUID();
      const idle = new Promise((done) => sent.set(id, done));
      kernel.send("comm_msg", { comm_id: data.id, data: data.data }, id);
      await idle;
      now("sent", { ticket: data.ticket });
    }
  });
  element.sandbox = SANDBOX;
  element.src = `${origin}/hosts/outputframe.html`;
  return { cell, post };
}

window.notebook = notebook(kernel, (cell, output, content) => {
  let frame = frames.find((f) => f.cell === cell);
  if (!frame) frames.push(frame = frameOf(cell));
  frame.post("output", { output, data: content.data, metadata: content.metadata ?? {} });
});
window.theme = (name) => {
  theme = name;
  document.documentElement.setAttribute("theme", name === "dark" ? "dark" : "");
  tell("theme", { name });
};
window.theme(theme);
