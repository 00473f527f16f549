// What the Jupyter extension does outside of its web view, in small: messages, and the place of scripts of widgets.
// Names of messages are those of src/messageTypes.ts in microsoft/vscode-jupyter.

import { connect, isWidget, notebook } from "./notebook.js";

const WEBVIEW = "https://webview.test";
const given = new URLSearchParams(location.search);
const frame = document.querySelector("iframe");
const post = (kind, value) => frame.contentWindow.postMessage({ kind, ...value }, WEBVIEW);

const kernel = await connect(given.get("kernel"));
const models = new Set(), waiting = [];
let ready = false;

const toKernelScript = (type, payload) => post("kernel", { message: { type, payload } });
const whenReady = (type, payload) => (ready ? toKernelScript(type, payload) : waiting.push([type, payload]));
const bytes = (data) => [[...new Uint8Array(data)]];

kernel.hear((message, data) => {
  if (message.header.msg_type === "comm_open" && isWidget(message)) models.add(message.content.comm_id);
  const id = crypto.randomUUID();
  if (typeof data === "string") whenReady("IPyWidgets_msg", { id, data });
  else whenReady("IPyWidgets_binary_msg", { id, data: bytes(data) });
});
kernel.mirror((msg) => whenReady("IPyWidgets_mirror_execute", { id: msg.header.msg_id, msg }));

// Where anywidget's front end comes from: a CDN if the user has allowed it, else the folder of the environment.
const source = (moduleName, moduleVersion) => (given.get("scripts") === "cdn"
  ? { source: "cdn", scriptUri: `https://cdn.jsdelivr.net/npm/${moduleName}@${moduleVersion}/dist/index.js` }
  : { source: "local", scriptUri: `${WEBVIEW}/nbextensions/${moduleName}/index` });

const fromKernelScript = {
  IPyWidgets_Request_Widget_Version: () => toKernelScript("IPyWidgets_Reply_Widget_Version", 8),
  IPyWidgets_Ready: () => {
    const model = { id: kernel.id, name: "python3" };
    ready = true;
    toKernelScript("IPyWidgets_kernelOptions", { id: kernel.id, clientId: kernel.session, userName: "", model, protocol: "" });
    for (const [type, payload] of waiting.splice(0)) toKernelScript(type, payload);
  },
  IPyWidgets_msg: (data) => kernel.raw(data),
  IPyWidgets_binary_msg: ([data]) => kernel.raw(new Uint8Array(data.buffer ?? data).buffer),
  IPyWidgets_WidgetScriptSourceRequest: ({ moduleName, moduleVersion, requestId }) => {
    const found = { moduleName, requestId, ...source(moduleName, moduleVersion) };
    toKernelScript("IPyWidgets_WidgetScriptSource_Response", found);
  },
  IPyWidgets_RegisterMessageHook: (id) =>
    toKernelScript("IPyWidgets_ExtensionOperationHandled", { id, type: "IPyWidgets_RegisterMessageHook" }),
  IPyWidgets_RemoveMessageHook: ({ hookMsgId }) =>
    toKernelScript("IPyWidgets_ExtensionOperationHandled", { id: hookMsgId, type: "IPyWidgets_RemoveMessageHook" }),
};
const fromRenderer = {
  "ipywidget-renderer-loaded": () => ({ command: "ipywidget-renderer-init", version: 8, kernelSelected: true }),
  "query-widget-state": ({ command, model_id }) =>
    ({ command, model_id, hasWidgetState: models.has(model_id), kernelSelected: true }),
};
let begun = false, theme = given.get("theme");
const started = new Promise((done) => {
  addEventListener("message", ({ data, origin }) => {
    if (origin !== WEBVIEW) return;
    if (data.kind === "started") done();
    if (data.kind === "kernel") fromKernelScript[data.message.type]?.(data.message.payload);
    if (data.kind === "renderer") {
      const answer = fromRenderer[data.message.command]?.(data.message);
      if (answer) post("renderer", { message: answer });
    }
  });
});

window.notebook = notebook(kernel, (cell, output, { data }) => {
  // The web view starts with the first output; what the kernel has said of widgets waits for it.
  if (!begun) frame.src = `${WEBVIEW}/hosts/webview.html?theme=${theme}`;
  begun = true;
  started.then(() => post("output", { cell, output, data }));
});
window.theme = (name) => {
  theme = name;
  if (begun) post("theme", { name });
};
