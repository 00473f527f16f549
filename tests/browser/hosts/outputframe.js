// What Colab does in the frame of a cell, in small: it draws outputs, and gives the manager of widgets what it needs.

const WIDGET = "application/vnd.jupyter.widget-view+json";
const post = (kind, value) => parent.postMessage({ kind, ...value }, "*");
const channels = new Map(), asked = new Map(), sending = new Map();
let manager, tickets = 0;

window.google = { colab: { kernel: { accessAllowed: true } } };

/** Make a comm of the manager; each of its readers gets every message. */
function channel(id) {
  const log = [];
  let closed = false, wake = () => {}, woken = new Promise((done) => { wake = done; });
  const go = () => { wake(); woken = new Promise((done) => { wake = done; }); };
  async function* read() {
    for (let at = 0; ; at++) {
      while (at >= log.length) {
        if (closed) return;
        await woken;
      }
      yield log[at];
    }
  }
  const send = (data) => new Promise((done) => {
    const ticket = tickets++;
    sending.set(ticket, done);
    post("send", { id, ticket, data });
  });
  const comm = { send, close: () => {}, messages: { [Symbol.asyncIterator]: read } };
  const made = { comm, add: (message) => { log.push(message); go(); }, end: () => { closed = true; go(); } };
  channels.set(id, made);
  return made;
}

const environment = {
  getModelState: (id) => new Promise((done) => {
    asked.set(id, [...(asked.get(id) ?? []), done]);
    post("model", { id });
  }),
  openCommChannel: () => { throw new Error("no panel opens a comm"); },
  renderOutput: () => { throw new Error("no panel has an output widget"); },
};

function drawHtml(html, element) {
  element.innerHTML = html;
  for (const old of [...element.querySelectorAll("script")]) {
    const script = document.createElement("script");
    for (const { name, value } of old.attributes) script.setAttribute(name, value);
    script.text = old.text;
    old.replaceWith(script);
  }
}

async function draw({ output, data, metadata }) {
  const area = document.getElementById("output-area"), name = `output-${output}`;
  const old = document.getElementById(name), element = Object.assign(document.createElement("div"), { id: name });
  if (old) old.replaceWith(element);
  else area.append(element);
  const url = metadata[WIDGET]?.colab?.custom_widget_manager?.url;
  if (data[WIDGET] && url) {
    // Colab imports the manager once for each frame, and only where the output names it.
    manager ??= (await import(url)).createWidgetManager(environment);
    await manager.render(data[WIDGET].model_id, element);
  } else if (data[WIDGET]) element.textContent = "Support for third party widgets is not enabled.";
  else if (data["text/html"]) drawHtml(data["text/html"], element);
  else element.textContent = data["text/plain"];
}

let drawn = Promise.resolve(); // an output and its change come in this order
addEventListener("message", ({ data, source }) => {
  if (source !== parent) return;
  const { kind, id } = data;
  if (kind === "theme") document.documentElement.setAttribute("theme", data.name === "dark" ? "dark" : "");
  if (kind === "output") drawn = drawn.then(() => draw(data)).catch((error) => { setTimeout(() => { throw error; }); });
  if (kind === "model") {
    // What comes from now on is not in this state.
    const state = data.model && { ...data.model, comm: (channels.get(id) ?? channel(id)).comm };
    for (const done of asked.get(id) ?? []) done(state);
    asked.delete(id);
  }
  if (kind === "message") channels.get(id)?.add({ data: data.data, buffers: data.buffers });
  if (kind === "closed") channels.get(id)?.end();
  if (kind === "sent") { sending.get(data.ticket)(); sending.delete(data.ticket); }
  if (kind === "opened" && manager && !channels.has(id))
    manager.commChannelOpened(id, channel(id).comm, data.data, data.buffers);
});
new ResizeObserver(() => post("height", { height: document.body.scrollHeight })).observe(document.body);
post("started");
