// What VS Code does in the web view of a notebook, in small: it starts the extension's scripts and draws outputs.

import { activate as activateKernel } from "/managers/vscode/kernel.js";
import { activate as activateRenderer } from "/managers/vscode/renderer.js";
import { activate as activateWidgets } from "/managers/vscode/ipywidgets.js";

const WIDGET = "application/vnd.jupyter.widget-view+json";
const post = (kind, message) => parent.postMessage({ kind, message }, "*");
const channel = () => {
  const heard = [];
  return { fire: (message) => heard.forEach((f) => f(message)), listen: (f) => { heard.push(f); return { dispose() {} }; } };
};
const kernel = channel(), renderer = channel();

function setTheme(name) {
  document.documentElement.classList.toggle("dark", name === "dark");
  document.body.classList.remove("vscode-light", "vscode-dark");
  document.body.classList.add(`vscode-${name}`);
  document.body.dataset.vscodeThemeKind = `vscode-${name}`;
}
setTheme(new URLSearchParams(location.search).get("theme"));

window.vscIPyWidgets7 = { load() {}, unload() {} }; // ipywidgets 7, which the kernel does not have
activateWidgets();
activateKernel({ onDidReceiveKernelMessage: kernel.listen, postKernelMessage: (message) => post("kernel", message) });
const widgets = activateRenderer({
  getRenderer: async () => undefined, getState: () => undefined, setState: () => {},
  onDidReceiveMessage: renderer.listen, postMessage: (message) => post("renderer", message),
});

/** Draw HTML as VS Code does: scripts run one after the other, with few of their attributes. */
function drawHtml(html, element) {
  element.innerHTML = html;
  for (const old of [...element.getElementsByTagName("script")]) {
    const script = document.createElement("script");
    script.text = old.innerText;
    for (const name of ["type", "src", "nonce", "noModule", "async"]) if (old[name]) script.setAttribute(name, old[name]);
    element.appendChild(script).remove();
  }
}

async function draw({ cell, output, data }) {
  const cellName = `cell-${cell}`, name = `output-${output}`;
  const container = document.getElementById("container");
  const place = document.getElementById(cellName) ?? container.appendChild(Object.assign(document.createElement("div"), { id: cellName }));
  const old = document.getElementById(name), element = Object.assign(document.createElement("div"), { id: name });
  element.className = "output";
  if (old) widgets.disposeOutputItem(name);
  if (old) old.replaceWith(element);
  else place.append(element);
  if (data[WIDGET]) {
    const item = { id: name, mime: WIDGET, json: () => data[WIDGET], text: () => JSON.stringify(data[WIDGET]) };
    try {
      return await widgets.renderOutputItem(item, element, new AbortController().signal);
    } catch (error) {
      if (error.name !== "vscode.fallbackToNextRenderer") throw error;
    }
  }
  if (data["text/html"]) drawHtml(data["text/html"], element);
  else element.textContent = data["text/plain"];
}

let drawn = Promise.resolve(); // an output and its change come in this order
addEventListener("message", ({ data }) => {
  if (data.kind === "kernel") kernel.fire(data.message);
  if (data.kind === "renderer") renderer.fire(data.message);
  if (data.kind === "theme") setTheme(data.name);
  if (data.kind === "output") drawn = drawn.then(() => draw(data));
});
post("started");
